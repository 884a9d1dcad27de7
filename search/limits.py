"""Limits on what AutoNAD may choose: what a candidate costs before it is measured, and whether anything is left.

That nothing is left is found out before anything is trained.
"""

import random
from functools import partial

from models.hybrid_architecture import HybridArchitecture
from models.hybrid_cost import parameters_of
from models.hybrid_space import HybridSpace
from search.context import Context
from search.errors import InputError
from search.evolution import ATTEMPTS
from search.finetune import cost_of
from search.hybrid_workers import values_of
from search.latency_ledger import LatencyLedger
from search.population import Limits, Price

GIGA = 1e9


class NothingLegal(InputError):
    """The limits leave no architecture of the space."""


def limits_of(context: Context) -> Limits:
    """Return the limits of the settings."""
    settings = context.settings.evolution
    return Limits(settings.parameter_limit, GIGA * settings.mac_limit, settings.latency_limit_ms)


def check_limits(context: Context, space: HybridSpace, limits: Limits, latencies: LatencyLedger) -> None:
    """Find out before anything is trained that the limits leave nothing, or next to nothing, of the space.

    Raises:
        NothingLegal: so it is.
    """
    lightest = space.least(partial(_parameters, context))
    if limits.parameters and (fewest := _parameters(context, lightest)) > limits.parameters:
        raise NothingLegal(
            f"evolution.parameter_limit: {limits.parameters:,} parameters are fewer than any subnet of the space has; "
            f"the smallest has {fewest:,}"
        )

    def macs(architecture: HybridArchitecture) -> float:
        return cost_of(context, architecture).macs

    # An edge takes as many MACs as it has parameters, times the same positions: its operators need no comparing again.
    if limits.macs and (least := macs(space.least(macs, lightest.edges))) > limits.macs:
        raise NothingLegal(
            f"evolution.mac_limit: {limits.macs / GIGA:g} GMACs are fewer than any subnet of the space takes; the "
            f"smallest takes {least / GIGA:.3f}"
        )
    if (limits.parameters or limits.macs) and not _drawn_within(context, space, limits):
        raise NothingLegal(
            f"evolution.parameter_limit, evolution.mac_limit: of {ATTEMPTS} random subnets of the space none keeps "
            "them; raise them, or narrow the space (space.widths, space.depths, space.ratios)"
        )
    if limits.latency_ms:

        def latency_ms(architecture: HybridArchitecture) -> float:
            return values_of(latencies.records([architecture]))[0].median_ms

        # One measurement, as a rule; the others are for those who ask for about as little as there is.
        fastest = latency_ms(space.smallest())
        if fastest > limits.latency_ms:
            fastest = latency_ms(space.least(latency_ms))
        if fastest > limits.latency_ms:
            raise NothingLegal(
                f"evolution.latency_limit_ms: {limits.latency_ms:g} ms cannot be met; the fastest of the smallest "
                f"subnets of the space takes {fastest:.1f} ms on {latencies.conditions.device_name}"
            )


def _drawn_within(context: Context, space: HybridSpace, limits: Limits) -> bool:
    """Return whether a random subnet keeps the limits; a generation draws as often for each of its candidates."""
    drawn = (space.sample(random.Random(f"{context.seed}/limits/{k}")) for k in range(ATTEMPTS))
    return any(limits.allow(price_of(context, limits, architecture)) for architecture in drawn)


def price_of(context: Context, limits: Limits, architecture: HybridArchitecture) -> Price:
    """Return what is known of a candidate before it is measured; MACs, which take a while, where they are limited."""
    if limits.macs:
        cost = cost_of(context, architecture)
        return Price(cost.parameters, cost.macs)
    return Price(_parameters(context, architecture))


def _parameters(context: Context, architecture: HybridArchitecture) -> int:
    width = context.settings.space.decoder_width
    return parameters_of(architecture, in_channels=context.pack.colour_channels, classes=context.classes, width=width)
