"""What each operator of each block costs, estimated from the latencies of whole subnets, and the prior made of it.

Source: AutoNAD Sec. IV-D, Fig. 5. The paper averages the recorded latencies per operator and block. The mean over the
subnets that hold an operator, or its count in the fastest, mixes its cost with theirs: a fast subnet is mostly a
shallow and narrow one. Least squares on all choices at once keeps them apart.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.hybrid_architecture import EDGE_NAMES, HybridArchitecture
from models.hybrid_space import HybridSpace, OperatorPrior
from search.errors import InputError
from search.latency import Conditions, LatencyRecord
from search.latency_fit import Fit, Vector, covariates_of, fit_sums, places

ROUNDING = 1e-9
"""Of the largest latency of a block: operators that differ by less do not differ."""


class InvalidRecords(InputError):
    """Records that no table can be made of."""


class InvalidTable(InputError):
    """A text that holds no latency table."""


class InvalidPrior(InputError):
    """A temperature or floor that makes no probabilities."""


@dataclass(frozen=True)
class Estimate:
    """Of what one operator costs at one place.

    Attributes:
        latency_ms: its part of a network's latency.
        standard_error_ms: of it; None where it was never sampled or the records are too few to tell.
        count: records that hold it; 0 marks a value taken from other places.
    """

    latency_ms: float
    standard_error_ms: float | None
    count: int


@dataclass(frozen=True)
class LatencyTable:
    """Latency as a sum over the choices of an architecture. Construct it with `fit`.

    Attributes:
        conditions: of all records.
        space: whose choices it has.
        rest_ms: what every network has: embeddings at mean width, the aggregation with mean operators, the head.
        blocks: per (stage, block), both from 0, and operator: the mean latency of a whole block with that operator,
            feed-forward network included, at the mean width and ratio of the stage; above 0. Records tell it from the
            rest where some lack the block. No network lacks the first of a stage: of it they tell the differences
            between operators, and their mean is taken from the stage's other blocks; see also `relative_stages`.
        edges: per edge and operator the difference from the mean of the edge's operators, since no network lacks one.
        covariates: per name of `latency_fit.covariates_of` the milliseconds of one unit.
        residual_ms: standard deviation of what the sum leaves unexplained; None where the records are too few to tell.
        records: that it was estimated from.
    """

    conditions: Conditions
    space: HybridSpace
    rest_ms: float
    blocks: Mapping[tuple[int, int], Mapping[str, Estimate]]
    edges: Mapping[str, Mapping[str, Estimate]]
    covariates: Mapping[str, float]
    residual_ms: float | None
    records: tuple[LatencyRecord, ...]

    @classmethod
    def fit(cls, records: Sequence[LatencyRecord], space: HybridSpace, conditions: Conditions) -> "LatencyTable":
        """Return the table that explains the records best; see `latency_fit.fit_sums`.

        A pair that was never sampled gets the mean of its operator over the other blocks of the stage, whose maps have
        the same size; else the mean of the block; and on an edge the mean of the edge.

        Args:
            records: at least one; of one architecture there may be several.
            space: that their architectures are from.
            conditions: that all of them were measured under.

        Raises:
            InvalidRecords: there are none, one is from outside the space, or its latency is not above 0.
        """
        _check(records, space)
        fit = fit_sums([r.architecture for r in records], [r.median_ms for r in records], space)
        blocks: dict[tuple[int, int], dict[str, Estimate]] = {}
        for s, b in places(space):
            sampled = [o for o in space.operators if fit.counts["block", s, b, o]]
            blocks[s, b] = {
                o: _estimate(fit, fit.sum_of(("stage", s, o), ("block", s, b, o)), fit.counts["block", s, b, o])
                for o in sampled
            }
        rest, edges = fit.sum_of(("rest",)), {}
        for name in EDGE_NAMES:
            sums = {o: fit.sum_of(("edge", name, o)) for o in space.edge_operators if fit.counts["edge", name, o]}
            mean = np.mean(list(sums.values()), axis=0)
            rest = rest + mean
            known = {o: _estimate(fit, v - mean, fit.counts["edge", name, o]) for o, v in sums.items()}
            edges[name] = {o: known.get(o, Estimate(0.0, None, 0)) for o in space.edge_operators}
        covariates = {str(k[1]): fit.value_ms(fit.sum_of(k)) for k in fit.columns if k[0] == "covariate"}
        full = {place: _filled(place, blocks, space.operators) for place in blocks}
        return cls(conditions, space, fit.value_ms(rest), full, edges, covariates, fit.residual_ms, tuple(records))

    @property
    def relative_stages(self) -> frozenset[int]:
        """The stages, from 0, that have one depth in all records.

        Nothing tells the latency of their blocks from the rest of the network. Its mean over the operators of a block
        is then about an equal share, the mean latency over one more than the number of blocks; differences between
        operators are as elsewhere.
        """
        depths = [[stage.depth for stage in record.architecture.stages] for record in self.records]
        return frozenset(s for s, found in enumerate(zip(*depths, strict=True)) if len(set(found)) == 1)

    @property
    def spread_ms(self) -> float:
        """The standard deviation of a block's operators, mean over the blocks; 0 where it is but rounding."""
        rows = [[e.latency_ms for e in row.values()] for row in self.blocks.values()]
        spread_ms = float(np.mean([np.std(row) for row in rows]))
        return spread_ms if spread_ms > ROUNDING * max(map(max, rows)) else 0.0

    def predict_ms(self, architecture: HybridArchitecture) -> float:
        """Return the latency that the sum of its choices gives an architecture.

        Raises:
            InvalidRecords: the architecture is not one of the space.
        """
        if not self.space.contains(architecture):
            raise InvalidRecords("the architecture is not of the table's space, which alone it can predict")
        blocks = sum(
            self.blocks[s, b][block.operator].latency_ms
            for s, stage in enumerate(architecture.stages)
            for b, block in enumerate(stage.blocks)
        )
        edges = sum(self.edges[e][o].latency_ms for e, o in zip(EDGE_NAMES, architecture.edges, strict=True))
        sizes = sum(self.covariates[name] * x for name, x in covariates_of(architecture, self.space).items())
        return self.rest_ms + blocks + edges + sizes

    def prior(
        self, *, relative_temperature: float = 1.0, temperature_ms: float | None = None, floor: float = 0.1
    ) -> OperatorPrior:
        """Return for every (stage, block) of the space a probability for each operator: the faster, the likelier.

        Source: Sec. IV-D, Fig. 5. The paper names no formula; here it is the softmax of -latency / temperature, mixed
        with uniform chances so that no operator is out of reach. One temperature for all blocks: an operator is
        avoided for the time that it costs the network, so early stages decide more than late ones.

        Args:
            relative_temperature: in units of `spread_ms`, so that it means the same on a fast and on a slow device.
            temperature_ms: in its place, above 0.
            floor: share of the uniform chances, in [0, 1].

        Raises:
            InvalidPrior: a temperature not above 0, or a floor outside [0, 1].
        """
        if not 0 <= floor <= 1:
            raise InvalidPrior(f"floor {floor}; allowed is 0 to 1")
        given = relative_temperature if temperature_ms is None else temperature_ms
        if not (given > 0 and math.isfinite(given)):
            raise InvalidPrior(f"temperature {given}; it must be above 0")
        scale_ms = relative_temperature * self.spread_ms if temperature_ms is None else temperature_ms
        uniform = 1 / len(self.space.operators)
        chances = {}
        for place, row in self.blocks.items():
            latencies_ms = np.array([row[o].latency_ms for o in self.space.operators])
            # No spread at all means operators of one latency, for which every temperature says the same.
            faster = np.exp((latencies_ms.min() - latencies_ms) / scale_ms) if scale_ms > 0 else np.ones(len(row))
            mixed = (1 - floor) * faster / faster.sum() + floor * uniform
            chances[place] = dict(zip(self.space.operators, (mixed / mixed.sum()).tolist(), strict=True))
        return chances

    def to_json(self) -> str:
        """Return the canonical JSON text: numbers as they are, blocks as rows per stage, and the records."""
        stages: list[list[dict[str, Any]]] = [[] for _ in self.space.depths]
        for (stage, _), row in sorted(self.blocks.items()):
            stages[stage].append({o: asdict(e) for o, e in row.items()})
        values = {
            "kind": "latency table",
            "conditions": self.conditions.to_dict(),
            "space": asdict(self.space),
            "rest_ms": self.rest_ms,
            "blocks": stages,
            "edges": {name: {o: asdict(e) for o, e in row.items()} for name, row in self.edges.items()},
            "covariates": dict(self.covariates),
            "residual_ms": self.residual_ms,
            "records": [record.to_dict() for record in self.records],
        }
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "LatencyTable":
        """Rebuild from JSON text.

        Raises:
            InvalidTable: the text is not JSON or no table; what is wrong with a part of it is named.
        """
        try:
            values = json.loads(text)
            stages = [[{o: Estimate(**e) for o, e in row.items()} for row in rows] for rows in values["blocks"]]
            return cls(
                conditions=Conditions.from_dict(values["conditions"]),
                space=HybridSpace(**{name: _frozen(choices) for name, choices in values["space"].items()}),
                rest_ms=float(values["rest_ms"]),
                blocks={(s, b): row for s, rows in enumerate(stages) for b, row in enumerate(rows)},
                edges={name: {o: Estimate(**e) for o, e in row.items()} for name, row in values["edges"].items()},
                covariates={name: float(value) for name, value in values["covariates"].items()},
                residual_ms=values["residual_ms"],
                records=tuple(LatencyRecord.from_dict(record) for record in values["records"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidTable(f"not a latency table: {error!r}") from error


def prior_to_json(prior: OperatorPrior) -> str:
    """Return the JSON text {"blocks": rows per stage}, as a table's: per block the probability of each operator."""
    stages: dict[int, list[Mapping[str, float]]] = {}
    for (stage, _), row in sorted(prior.items()):
        stages.setdefault(stage, []).append(row)
    return json.dumps({"kind": "operator prior", "blocks": list(stages.values())}, indent=1)


def _check(records: Sequence[LatencyRecord], space: HybridSpace) -> None:
    if not records:
        raise InvalidRecords("no records; a latency table needs at least one")
    for number, record in enumerate(records):
        if not space.contains(record.architecture):
            raise InvalidRecords(f"record {number}: its architecture is not one of the space")
        if not (record.median_ms > 0 and math.isfinite(record.median_ms)):
            raise InvalidRecords(f"record {number}: {record.median_ms} ms; it must be above 0")


def _estimate(fit: Fit, combination: Vector, count: int) -> Estimate:
    return Estimate(fit.value_ms(combination), fit.error_ms(combination), count)


def _filled(
    place: tuple[int, int], blocks: Mapping[tuple[int, int], Mapping[str, Estimate]], operators: Sequence[str]
) -> dict[str, Estimate]:
    """Return the estimates of a block with those of operators that were never sampled there, in order."""
    stage = [row for (s, _), row in blocks.items() if s == place[0]]
    known = {o: e.latency_ms for o, e in blocks[place].items()}
    for operator in operators:
        elsewhere = [row[operator].latency_ms for row in stage if operator in row]
        if operator not in known and elsewhere:
            known[operator] = sum(elsewhere) / len(elsewhere)
    # Every record holds a block of each stage, so that there is at least one.
    mean = sum(known.values()) / len(known)
    return {o: blocks[place].get(o, Estimate(known.get(o, mean), None, 0)) for o in operators}


def _frozen(choices: Any) -> Any:
    """Return nested lists of JSON as nested tuples."""
    return tuple(_frozen(choice) for choice in choices) if isinstance(choices, list) else choices
