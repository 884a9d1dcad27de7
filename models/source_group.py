"""Mixed edges computed in batches: all edges that leave one node at once, equal to the plain sum but for rounding.

Edges that leave a state share its ReLU, its pools and its attention statistics; their depthwise kernels of one size
are one grouped convolution, all their pointwise kernels another, and the softmax shares enter as the scale of the
last batch norm. C_k-2 and C_k-1 are known together and form one group; each inner node is a group of its own. Zero
operators are not computed: they keep their share of the softmax and add nothing. Depthwise taps that never meet
a small map are cropped.

Shapes: B images, c channels of a node, s sources of a group, n nodes that they reach, U units, where a unit is one
operator of one edge. Units are sorted by operator, then source, then node.
Source: NAS-ASDet Eq. 1-2, computed in another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.architecture import NODES
from models.cell import Cell, edge_name
from models.cell_space import EDGES
from models.grouped import batch_statistics_norm, crop, depthwise, is_channels_last, pointwise
from models.operators import pool

SEPARABLE = {"sep_conv_3x3": 1, "sep_conv_5x5": 1, "sep_conv_7x7": 1}
DILATED = {"dil_conv_3x3": 2, "dil_conv_5x5": 2}
DILATION = SEPARABLE | DILATED
POOLS = {"max_pool_3x3": "max", "avg_pool_3x3": "avg"}
GATED = ("identity", "channel_att", "spatial_att")
GROUPS = ((0, 1), (2,), (3,), (4,))
"""States whose outgoing edges are computed together."""


@dataclass(frozen=True)
class Unit:
    """One operator of one edge; `source` and `node` count within the group, `share` indexes the flat alpha table."""

    operator: str
    edge: str
    source: int
    node: int
    share: int


class SourceGroup(nn.Module):
    """All edges that leave one group of states, with the parameters of a plain cell stacked.

    Args (constructor):
        plain: the cell whose parameters are taken over (copied).
        sources: numbers of the states.
    """

    pointwise_first: nn.Parameter
    pointwise_last: nn.Parameter
    share_index: Tensor
    target: Tensor
    source_channel_att: Tensor
    source_spatial_att: Tensor

    def __init__(self, plain: Cell, sources: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = 2 if plain.reduction and sources == GROUPS[0] else 1
        self.channels, self.sources = plain.channels, len(sources)
        self.first_node = max(sources[-1] - 1, 0)
        self.nodes = NODES - self.first_node
        self.units = _units(plain.candidates, sources, self.first_node)
        self.order = [u for name in (*DILATION, *POOLS, *GATED) for u in self.units.get(name, [])]
        self.register_buffer("share_index", torch.tensor([u.share for u in self.order], dtype=torch.long), False)
        self._lay_out()
        self.stacked: dict[str, list[str]] = {}
        self._take(dict(plain.named_parameters()))

    # --- construction -------------------------------------------------------------------------------------------

    def _of(self, *names: str) -> list[Unit]:
        return [u for name in names for u in self.units.get(name, [])]

    def _lay_out(self) -> None:
        """Precompute index buffers, so that forward makes no tensor on the host."""

        def index(name: str, values: list[int]) -> None:
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), False)

        full = self.sources * self.nodes
        self.full = {name: len(self._of(name)) == full for name in (*DILATION, *POOLS, *GATED)}
        for name in (*DILATION, *POOLS, *GATED):
            index(f"slot_{name}", [u.source * self.nodes + u.node for u in self._of(name)])
            index(f"source_{name}", [u.source for u in self._of(name)])
        index("target", [u.node for u in self._of(*DILATION)])
        self.pool_names = [name for name in POOLS if self._of(name)]

    def _take(self, plain: dict[str, nn.Parameter]) -> None:
        """Stack the plain parameters; `self.stacked` names the ones that each stack holds, in order."""

        def stack(name: str, pairs: list[tuple[Unit, str]]) -> None:
            if pairs:
                self.stacked[name] = [f"edges.{u.edge}.operators.{u.operator}.{suffix}" for u, suffix in pairs]
                self.register_parameter(name, nn.Parameter(torch.cat([plain[k].detach() for k in self.stacked[name]])))

        for name in SEPARABLE:
            stack(f"depthwise_{name}", [(u, "0.depthwise.weight") for u in self._of(name)])
            stack(f"second_{name}", [(u, "1.depthwise.weight") for u in self._of(name)])
        for name in DILATED:
            stack(f"depthwise_{name}", [(u, "depthwise.weight") for u in self._of(name)])
        separable, dilated = self._of(*SEPARABLE), self._of(*DILATED)
        stack("pointwise_first", [(u, "0.pointwise.weight") for u in separable])
        last = [(u, "1.pointwise.weight") for u in separable] + [(u, "pointwise.weight") for u in dilated]
        stack("pointwise_last", last)
        # At stride 2 every unit has a reduction of its own, and the attentions are computed source by source.
        for source in range(self.sources) if self.stride == 2 else [None]:
            own = {name: [u for u in self._of(name) if source in (None, u.source)] for name in GATED}
            key = "" if source is None else str(source)
            for part in ("squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias"):
                stack(part.replace(".", "_") + key, [(u, f"1.{part}") for u in own["channel_att"]])
            stack(f"spatial{key}", [(u, "1.conv.weight") for u in own["spatial_att"]])
            for half in ("even", "odd") if self.stride == 2 else ():
                paths = {"identity": half, "channel_att": f"0.{half}", "spatial_att": f"0.{half}"}
                stack(f"reduce_{half}{key}", [(u, f"{paths[name]}.weight") for name in GATED for u in own[name]])

    # --- forward ------------------------------------------------------------------------------------------------

    def gather(self, shares: Tensor) -> dict[str, Tensor]:
        """Return the shares of this group's units by operator: "mixed" for all convolutions, the others by name.

        Args:
            shares: (14, candidates).
        """
        flat = shares.flatten().index_select(0, self.share_index)
        sizes = [len(self._of(*DILATION)), *(len(self._of(name)) for name in (*POOLS, *GATED))]
        return dict(zip(("mixed", *POOLS, *GATED), flat.split(sizes), strict=True))

    def forward(self, states: list[Tensor], shares: dict[str, Tensor]) -> Tensor:
        """Return what these states add to the nodes from `first_node` on, (B, n, c, H / stride, W / stride).

        Args:
            states: the s source states, (B, c, H, W) each.
            shares: as `gather` returns them.
        """
        x = torch.cat(states, dim=1) if len(states) > 1 else states[0]
        parts = []
        rectified = F.relu(x)
        if len(shares["mixed"]):
            parts.append(self._convolutions(rectified, shares["mixed"]))
        if self.pool_names:
            parts.append(self._pools(x, shares))
        if self._of(*GATED):
            parts.append(self._gates(x, shares) if self.stride == 1 else self._reduced_gates(rectified, shares))
        if not parts:
            b, _, h, w = x.shape
            return x.new_zeros(b, self.nodes, self.channels, h // self.stride, w // self.stride)
        return sum(parts[1:], start=parts[0])

    def _convolutions(self, rectified: Tensor, shares: Tensor) -> Tensor:
        """Separable convolutions (twice) and dilated ones (once): two grouped 1x1, two batch norms in all."""
        first: list[Tensor] = []
        dilated: list[Tensor] = []
        everywhere = self._repeat(rectified) if any(self.full[name] for name in DILATION) else rectified
        for name in DILATION:
            if self._of(name):
                spread = everywhere if self.full[name] else self._select(rectified, name)
                weight = getattr(self, f"depthwise_{name}")
                (first if name in SEPARABLE else dilated).append(depthwise(spread, weight, self.stride, DILATION[name]))
        second = []
        if first:
            mixed = F.relu(
                batch_statistics_norm(pointwise(torch.cat(first, 1), self.pointwise_first, len(self._of(*SEPARABLE))))
            )
            names = [name for name in SEPARABLE if self._of(name)]
            for name, block in zip(names, mixed.split([f.shape[1] for f in first], dim=1), strict=True):
                second.append(depthwise(block, getattr(self, f"second_{name}"), 1, 1))
        mixed = pointwise(torch.cat([*second, *dilated], 1), self.pointwise_last, len(shares))
        # A copy: for one unit the expanded view would keep stride 0, which batch norm's backward misreads.
        scale = shares.repeat_interleave(self.channels)
        return self._sum_units(batch_statistics_norm(mixed, scale))

    def _sum_units(self, units: Tensor) -> Tensor:
        """Add units (B, U c, H, W), in the order of `DILATION`, into their nodes, (B, n, c, H, W)."""
        b, _, h, w = units.shape
        if all(self.full[name] or not self._of(name) for name in DILATION):
            return units.view(b, -1, self.nodes, self.channels, h, w).sum(1)
        grouped = units.view(b, -1, self.channels, h, w)
        return grouped.new_zeros(b, self.nodes, self.channels, h, w).index_add(1, self.target, grouped)

    def _pools(self, x: Tensor, shares: dict[str, Tensor]) -> Tensor:
        """Pools once per source, spread over the nodes by their shares."""
        pooled = batch_statistics_norm(
            torch.cat([pool(POOLS[name], x, self.stride) for name in self.pool_names], dim=1)
        )
        pooled = pooled.view(pooled.shape[0], -1, 1, self.channels, *pooled.shape[2:])
        weight = torch.cat([self._to_slots(shares[name], name) for name in self.pool_names])
        return (pooled * weight.view(1, -1, self.nodes, 1, 1, 1)).sum(1)

    def _gates(self, x: Tensor, shares: dict[str, Tensor]) -> Tensor:
        """Identity and both attentions at stride 1: all are x times something, so one product serves them."""
        b, _, h, w = x.shape
        inputs = x.view(b, self.sources, self.channels, h, w)
        gate = x.new_zeros(1, 1, 1, 1, 1)
        if self._of("identity"):
            gate = self._to_slots(shares["identity"], "identity").view(1, -1, 1, 1, 1)
        if self._of("channel_att"):
            means = inputs.mean((3, 4)).index_select(1, self.source_channel_att)
            channel = self._channel_gate(means, "") * shares["channel_att"][None, :, None]
            gate = gate + self._to_slots(channel, "channel_att")[..., None, None]
        if self._of("spatial_att"):
            statistics = torch.stack([inputs.amax(2), inputs.mean(2)], dim=2).index_select(1, self.source_spatial_att)
            spatial = self._spatial_gate(statistics, "") * shares["spatial_att"][None, :, None, None]
            gate = gate + self._to_slots(spatial, "spatial_att").unsqueeze(2)
        gate = gate.view(gate.shape[0], self.sources, self.nodes, *gate.shape[2:])
        return (inputs.unsqueeze(2) * gate).sum(1)

    def _reduced_gates(self, rectified: Tensor, shares: dict[str, Tensor]) -> Tensor:
        """The same at stride 2, where every unit has a factorized reduction of its own: source by source."""
        total: Tensor | None = None
        split = {name: shares[name].split(self._counts(name)) for name in GATED}
        for source, x in enumerate(rectified.chunk(self.sources, dim=1)):
            counts = [self._counts(name)[source] for name in GATED]
            if not sum(counts):
                continue
            even = F.conv2d(x, getattr(self, f"reduce_even{source}"), stride=2)
            odd = F.conv2d(F.pad(x, (-1, 0, -1, 0)), getattr(self, f"reduce_odd{source}"), stride=2)
            b, _, h, w = even.shape
            halves = [half.view(b, sum(counts), -1, h, w) for half in (even, odd)]
            reduced = batch_statistics_norm(torch.cat(halves, dim=2).view(b, -1, h, w)).view(
                b, sum(counts), self.channels, h, w
            )
            for name, block in zip(GATED, reduced.split(counts, dim=1), strict=True):
                if block.shape[1]:
                    gate = split[name][source][None, :, None, None, None] * self._reduced_gate(name, str(source), block)
                    added = self._to_nodes(block * gate, name, source)
                    total = added if total is None else total + added
        assert total is not None
        return total

    def _reduced_gate(self, name: str, key: str, block: Tensor) -> Tensor | float:
        if name == "channel_att":
            return self._channel_gate(block.mean((3, 4)), key)[..., None, None]
        if name == "spatial_att":
            return self._spatial_gate(torch.stack([block.amax(2), block.mean(2)], 2), key).unsqueeze(2)
        return 1.0

    def _counts(self, name: str) -> list[int]:
        """Return how many units of an operator leave each source."""
        return [sum(u.source == source for u in self._of(name)) for source in range(self.sources)]

    def _channel_gate(self, means: Tensor, key: str) -> Tensor:
        """Return sigmoid(excite(relu(squeeze(means)))) of the units stacked under `key`: (B, U, c) to (B, U, c)."""
        units, c = means.shape[1:]
        squeeze, excite = (getattr(self, f"{part}_weight{key}") for part in ("squeeze", "excite"))
        biases = [getattr(self, f"{part}_bias{key}").view(units, 1, -1) for part in ("squeeze", "excite")]
        hidden = torch.baddbmm(biases[0], means.transpose(0, 1), squeeze.view(units, -1, c).transpose(1, 2))
        out = torch.baddbmm(biases[1], F.relu(hidden), excite.view(units, c, -1).transpose(1, 2))
        return torch.sigmoid(out).transpose(0, 1)

    def _spatial_gate(self, statistics: Tensor, key: str) -> Tensor:
        """Return sigmoid(conv 7x7) of (B, U, 2, H, W) statistics: (B, U, H, W)."""
        b, units, _, h, w = statistics.shape
        weight = crop(getattr(self, f"spatial{key}"), 1, h, w)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return torch.sigmoid(F.conv2d(statistics.reshape(b, 2 * units, h, w), weight, padding=padding, groups=units))

    # --- from units to sources and nodes ------------------------------------------------------------------------

    def _repeat(self, x: Tensor) -> Tensor:
        """Return x (B, s c, H, W) with each source repeated for every node, (B, s n c, H, W), in x's memory order."""
        b, _, h, w = x.shape
        if is_channels_last(x):
            last = x.permute(0, 2, 3, 1).view(b, h, w, self.sources, 1, self.channels)
            last = last.expand(-1, -1, -1, -1, self.nodes, -1).reshape(b, h, w, -1)
            return last.permute(0, 3, 1, 2)
        spread = x.view(b, self.sources, 1, self.channels, h, w).expand(-1, -1, self.nodes, -1, -1, -1)
        return spread.reshape(b, -1, h, w)

    def _select(self, x: Tensor, name: str) -> Tensor:
        """Return the source channels of the units of `name`, (B, U c, H, W)."""
        b, _, h, w = x.shape
        index = getattr(self, f"source_{name}")
        if is_channels_last(x):
            last = x.permute(0, 2, 3, 1).view(b, h, w, self.sources, self.channels)
            return last.index_select(3, index).view(b, h, w, -1).permute(0, 3, 1, 2)
        return x.view(b, self.sources, self.channels, h, w).index_select(1, index).view(b, -1, h, w)

    def _to_slots(self, values: Tensor, name: str) -> Tensor:
        """Lay values of units, (U,) or (B, U, ...), out over all s n slots; absent edges get 0."""
        if self.full[name]:
            return values
        dim = 0 if values.dim() == 1 else 1
        shape = list(values.shape)
        shape[dim] = self.sources * self.nodes
        return values.new_zeros(shape).index_copy(dim, getattr(self, f"slot_{name}"), values)

    def _to_nodes(self, block: Tensor, name: str, source: int) -> Tensor:
        """Lay units of one source, (B, U, c, H, W), out over the n nodes."""
        if self.full[name]:
            return block
        slots = getattr(self, f"slot_{name}").split(self._counts(name))[source] - source * self.nodes
        shape = (block.shape[0], self.nodes, *block.shape[2:])
        return block.new_zeros(shape).index_copy(1, slots, block)

    def plain_state(self) -> dict[str, Tensor]:
        """Return the stacked parameters under the names that they have in the plain cell."""
        own = dict(self.named_parameters())
        return {
            name: part
            for stack, names in self.stacked.items()
            for name, part in zip(names, own[stack].detach().chunk(len(names)), strict=True)
        }


def _units(candidates: Sequence[Sequence[str]], sources: tuple[int, ...], first_node: int) -> dict[str, list[Unit]]:
    """Return the units of the edges that leave `sources`, by operator, each list by source, then node."""
    width = max(map(len, candidates))
    units: dict[str, list[Unit]] = {}
    for source in sources:
        for index, (node, origin) in enumerate(EDGES):
            for position, name in enumerate(candidates[index] if origin == source else ()):
                unit = Unit(
                    name, edge_name(node, source), sources.index(source), node - first_node, index * width + position
                )
                units.setdefault(name, []).append(unit)
    return units
