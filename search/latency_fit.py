"""Latencies of whole subnets explained as sums over their choices, by penalised least squares.

Regressors: a constant; per stage and operator the number of its blocks; an indicator per (stage, block, operator) and
per (edge, operator); and covariates of widths, ratios, kernels and pool sizes, so that neither depth nor width nor
ratio passes for the cost of an operator. Covariates are centred: without them an operator has its mean cost over the
choices of the space.

They are about as many as the records, and some no records can tell apart: no network lacks the first block of a stage.
Penalties decide what the records leave open, namely that it is alike in the blocks of a stage, whose maps have one
size. How much they weigh is what predicts left-out records best. On 80 and 200 subnets timed on a loaded machine that
errs by a quarter and a tenth less than the smallest of `PENALTIES`, which are what 600 exact sums choose.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.hybrid_architecture import EDGE_NAMES, HybridArchitecture
from models.hybrid_space import HybridSpace

PENALTIES = tuple(itertools.product((0.1, 1.0, 10.0, 100.0, 1000.0), (0.1, 1.0, 10.0)))
"""Pairs to choose from: for what sets a block apart from its stage, and for edges and covariates. The unit is one
record that says there is no difference."""

LEAST = 0.01
"""No block is estimated to cost less than this part of an equal share, since none takes less than no time."""

Key = tuple[str | int, ...]
"""("rest",), ("stage", s, operator), ("block", s, b, operator), ("edge", name, operator) or ("covariate", name)."""

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Coefficients of the regressors.

    Attributes:
        columns: the number of each regressor, of K.
        counts: per regressor in how many records it is not 0.
        coefficients_ms: (K,).
        weights: (K, records): what the coefficients were as sums of latencies, before `LEAST` was looked to.
        residual_ms: standard deviation of what the sum leaves unexplained; None where the records are too few to tell.
    """

    columns: Mapping[Key, int]
    counts: Mapping[Key, int]
    coefficients_ms: Vector
    weights: Matrix
    residual_ms: float | None

    def sum_of(self, *keys: Key) -> Vector:
        """Return (K,) with 1 for each of some regressors: the sum of their coefficients."""
        return _indicator(self.columns, keys)

    def value_ms(self, combination: Vector) -> float:
        """Return the coefficients combined by (K,) factors."""
        return float(combination @ self.coefficients_ms)

    def error_ms(self, combination: Vector) -> float | None:
        """Return the standard error of that, taking penalties as given; None where the residual is."""
        return (
            None if self.residual_ms is None else self.residual_ms * float(np.linalg.norm(combination @ self.weights))
        )


def fit_sums(architectures: Sequence[HybridArchitecture], latencies_ms: Sequence[float], space: HybridSpace) -> Fit:
    """Return the least squares fit under the penalties of `PENALTIES` that predict best what is left out.

    The numbers of blocks are penalised, weakly, for their distance from an equal share, the mean latency over one more
    than the mean number of blocks; all others for their distance from 0.

    Args:
        architectures: n >= 1 of the space.
        latencies_ms: n.
        space: whose choices are the regressors.
    """
    columns = {key: k for k, key in enumerate(_keys(space))}
    design = np.zeros((len(architectures), len(columns)))
    for line, architecture in zip(design, architectures, strict=True):
        for key, value in _row(architecture, space).items():
            line[columns[key]] = value
    latencies = np.asarray(latencies_ms, dtype=np.float64)
    share = 1 / (1 + sum(stage.depth for a in architectures for stage in a.stages) / len(architectures))
    solved = [(_solve(design, p, columns, share, []), p) for p in PENALTIES]
    weights, penalties = min(solved, key=lambda pair: _left_out(design, pair[0], latencies))
    # Penalised regressors take less than one degree of freedom each: the trace of the hat matrix.
    freedom = len(design) - float((design * weights.T).sum())
    residuals = latencies - design @ (weights @ latencies)
    return Fit(
        columns,
        dict(zip(columns, np.count_nonzero(design, axis=0).tolist(), strict=True)),
        _bounded(design, penalties, columns, share, latencies),
        weights,
        math.sqrt(float(residuals @ residuals) / freedom) if freedom >= 1 else None,
    )


def places(space: HybridSpace) -> list[tuple[int, int]]:
    """Return each (stage, block) that an architecture of a space can have, both from 0."""
    return [(stage, block) for stage, depths in enumerate(space.depths) for block in range(max(depths))]


def covariates_of(architecture: HybridArchitecture, space: HybridSpace) -> dict[str, float]:
    """Return the covariates of an architecture, unitless, each centred over the choices of the space.

    Per stage k from 1: its width ("stagek.width"); the sum over its blocks of the width, apart for each operator
    ("stagek.attention.width"), of the squared width, of ratio times width and of a convolution's squared kernel. Once:
    the sum of squared pool sizes.
    """
    values = {}
    for number, stage in enumerate(architecture.stages):
        name = f"stage{number + 1}"
        widths, ratios = space.widths[number], space.ratios[number]
        width = _centred(stage.width, widths)
        bend = width**2 - sum(_centred(w, widths) ** 2 for w in widths) / len(widths)
        values[f"{name}.width"] = width
        for operator in space.operators:
            values[f"{name}.{operator}.width"] = width * sum(b.operator == operator for b in stage.blocks)
        values[f"{name}.squared_width"] = bend * stage.depth
        hidden = sum(_centred(b.ratio, ratios) for b in stage.blocks)
        values[f"{name}.ratio"] = hidden * stage.width * len(widths) / sum(widths)
        squares = [kernel**2 for kernel in space.kernels]
        values[f"{name}.kernel"] = sum(_centred(b.kernel**2, squares) for b in stage.blocks if b.kernel)
    squares = [side**2 for side in space.pool_sizes]
    values["pools"] = sum(_centred(side**2, squares) for side in architecture.pools)
    return values


def _keys(space: HybridSpace) -> list[Key]:
    blocks: list[Key] = [("block", s, b, o) for s, b in places(space) for o in space.operators]
    stages: list[Key] = [("stage", s, o) for s in range(len(space.depths)) for o in space.operators]
    edges: list[Key] = [("edge", name, o) for name in EDGE_NAMES for o in space.edge_operators]
    return [("rest",), *stages, *blocks, *edges, *(("covariate", n) for n in covariates_of(space.smallest(), space))]


def _row(architecture: HybridArchitecture, space: HybridSpace) -> dict[Key, float]:
    row: dict[Key, float] = {("rest",): 1.0}
    for s, stage in enumerate(architecture.stages):
        for b, block in enumerate(stage.blocks):
            row["block", s, b, block.operator] = 1.0
            row["stage", s, block.operator] = row.get(("stage", s, block.operator), 0.0) + 1.0
    row |= {("edge", name, o): 1.0 for name, o in zip(EDGE_NAMES, architecture.edges, strict=True)}
    return row | {("covariate", name): value for name, value in covariates_of(architecture, space).items()}


def _centred(value: float, choices: Sequence[float]) -> float:
    """Return the distance from the choices' mean in units of their extent, so that one penalty suits all covariates."""
    return (value - sum(choices) / len(choices)) / ((max(choices) - min(choices)) or 1)


def _indicator(columns: Mapping[Key, int], keys: Sequence[Key]) -> Vector:
    vector = np.zeros(len(columns))
    vector[[columns[key] for key in keys]] = 1
    return vector


def _solve(
    design: Matrix, penalties: tuple[float, float], columns: Mapping[Key, int], share: float, bounds: Sequence[Vector]
) -> Matrix:
    """Return (K, n): the coefficients as sums of the latencies, with those of `bounds` held at `LEAST` of a share.

    The share is a part of the mean latency, so that these too are sums of latencies.
    """
    # A stage is drawn to the share far more weakly than its blocks to the stage, lest it stand between them and data.
    weigh = {"rest": 0.0, "stage": min(penalties[1], penalties[0] / 100), "block": penalties[0]}
    penalty = np.array([weigh.get(str(key[0]), penalties[1]) for key in columns])
    aim = np.array([share * (key[0] == "stage") for key in columns])
    held = np.array(bounds).reshape(-1, len(columns))
    system = np.block([[design.T @ design + np.diag(penalty), held.T], [held, np.zeros((len(held), len(held)))]])
    mean = np.full((1, len(design)), 1 / len(design))
    right = np.vstack([design.T + (penalty * aim)[:, None] * mean, np.full((len(held), 1), LEAST * share) * mean])
    return np.linalg.solve(system, right)[: len(columns)]


def _left_out(design: Matrix, weights: Matrix, latencies: Vector) -> float:
    """Return the mean squared error for records that are left out one at a time (PRESS, Allen 1974)."""
    leverage = (design * weights.T).sum(1)
    residuals = latencies - design @ (weights @ latencies)
    return float(np.mean((residuals / np.maximum(1 - leverage, 1e-9)) ** 2))


def _bounded(
    design: Matrix, penalties: tuple[float, float], columns: Mapping[Key, int], share: float, latencies: Vector
) -> Vector:
    """Return the coefficients with every sampled operator of a block held to what it costs at least.

    What falls short is held there and the rest solved for anew, until nothing falls short. Nothing is let go again:
    which of two operators next to no time is the faster, such records do not say.
    """
    blocks = [key for key in columns if key[0] == "block" and design[:, columns[key]].any()]
    totals = {key: _indicator(columns, [key, ("stage", key[1], key[3])]) for key in blocks}
    least = LEAST * share * float(latencies.mean())
    held: list[Key] = []
    while True:
        coefficients = _solve(design, penalties, columns, share, [totals[key] for key in held]) @ latencies
        short = [key for key in blocks if key not in held and totals[key] @ coefficients < least]
        if not short:
            return coefficients
        held += short
