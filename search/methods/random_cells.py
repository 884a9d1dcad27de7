"""The baseline of every search: an architecture drawn at random from the same space, then retrained the same way."""

import random

from models.architecture import NODES, CellArchitecture
from search.context import Context
from search.data.loaders import seed_of


def choose_architecture(context: Context) -> tuple[CellArchitecture, list[float]]:
    """Return a random architecture of the space and no search seconds."""
    return random_architecture(context.settings.network.operators, seed_of(context.seed, "random")), []


def random_architecture(operators: tuple[str, ...], seed: int) -> CellArchitecture:
    """Return an architecture whose nodes have two random sources each, with a random operator other than zero."""
    generator = random.Random(seed)
    names = [name for name in operators if name != "zero"]

    def cell() -> list[list[tuple[int, str]]]:
        sources = [generator.sample(range(node + 2), 2) for node in range(NODES)]
        return [[(source, generator.choice(names)) for source in pair] for pair in sources]

    return CellArchitecture.of(cell(), cell())
