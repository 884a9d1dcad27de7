"""One of two processes before the training, the second wrong in each TOPIC: `RANK PORT TOPIC...`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from models.autonad import AutoNADNet, Room
from search import preflight
from search.context import Context
from search.errors import InputError
from search.hybrid_settings import SpaceSettings, SupernetSettings, space_of
from search.ledger import Ledger
from search.settings import DataSettings, Settings

SETTINGS = Settings(
    data=DataSettings(image_size=32),
    space=SpaceSettings(
        widths=((32,), (32,), (32,), (32,)), depths=((1,),) * 4, ratios=((2.0,),) * 4, decoder_width=32
    ),
    supernet=SupernetSettings(batch=8),
)


def main(rank: int, port: str, topics: Sequence[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for topic in topics:
        print(told(topic, rank))
    dist.destroy_process_group()


def told(topic: str, rank: int) -> str:
    """Return what the check says."""
    wrong = topic if rank == 1 else ""
    settings = dataclasses.replace(SETTINGS, seed=1) if wrong == "settings" else SETTINGS
    free = 2**20 if wrong == "memory" else 2**40
    preflight.free_memory = lambda device: free  # type: ignore[assignment]
    torch.manual_seed(int(wrong == "weights"))
    space = space_of(settings.space)
    network = AutoNADNet(Room.of_space(space), in_channels=1, classes=1, width=32)
    pack = SimpleNamespace(digest="d", colour_channels=1, classes=("defect",))
    context = Context(Path(), settings, pack, torch.device("cpu"), 1, Ledger(None), Path())  # type: ignore[arg-type]
    try:
        preflight.check_supernet(context, network, space, 0)
    except InputError as error:
        return str(error)
    return "agreed"


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
