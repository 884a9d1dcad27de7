"""The folder of a trial, for a supernet's workers on nodes that do not see it: an actor where the folder is.

Each worker begins from the ledger and the checkpoints that the actor hands out. The first of the group hands back what
has changed after every epoch, so that a group that is begun anew, on whichever nodes, goes on from there.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.files import write_atomically
from orchestrator.nodes import Ticket, materialise
from orchestrator.orphans import end_with
from orchestrator.trees import check_inside

_STATE = ("ledger.jsonl", "checkpoint/*.safetensors", "checkpoint/*.json", "supernet.safetensors")
"""In the order in which they are written: what names others comes after them."""


class Home:
    """What the actor is."""

    def __init__(self, folder: Path):
        self._folder = folder
        end_with(folder / "lock")

    def state(self) -> dict[str, bytes]:
        """Return the files that a training goes on from."""
        return {name: path.read_bytes() for name, path in _state(self._folder).items()}

    def take(self, files: Mapping[str, bytes], gone: list[str]) -> None:
        """Write files of the trial, and remove others."""
        for name in (*files, *gone):
            check_inside(name, str(self._folder))
        for name, data in files.items():
            (self._folder / name).parent.mkdir(exist_ok=True)
            write_atomically(self._folder / name, data)
        for name in gone:
            (self._folder / name).unlink(missing_ok=True)


@dataclass
class Sent:
    """What the first worker has handed back: when each file was written. Without a home there is no need to."""

    home: Any = None
    written: dict[str, int] = field(default_factory=dict)

    def send(self, folder: Path) -> None:
        """Hand back what has changed, and wait until it is there."""
        if self.home is None:
            return
        import ray

        now = {name: path.stat().st_mtime_ns for name, path in _state(folder).items()}
        changed = {name: (folder / name).read_bytes() for name in now if now[name] != self.written.get(name)}
        ray.get(self.home.take.remote(changed, sorted(self.written.keys() - now.keys())))
        self.written = now


def home_of(ticket: Ticket) -> Any:
    """Return an actor on this node that hands out and takes back the state of a trial."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Home).options(num_cpus=0, scheduling_strategy=here).remote(ticket.folder)


def materialise_state(ticket: Ticket, home: Any) -> tuple[Path, Sent]:
    """Return the folder to train in on this node, and what to hand back by."""
    import ray

    folder = materialise(ticket)
    if folder == ticket.folder:
        return folder, Sent()
    # Of its own, because several workers of a node may not write to one; what an earlier group left is out of date.
    mine = folder.with_name(f"{folder.name}-{ray.get_runtime_context().get_worker_id()[:16]}")
    shutil.rmtree(mine, ignore_errors=True)
    mine.mkdir()
    shutil.copy(folder / "trial.json", mine / "trial.json")
    Home(mine).take(ray.get(home.state.remote()), [])
    return mine, Sent(home, {name: path.stat().st_mtime_ns for name, path in _state(mine).items()})


def _state(folder: Path) -> dict[str, Path]:
    paths = (path for pattern in _STATE for path in sorted(folder.glob(pattern)))
    return {str(path.relative_to(folder)): path for path in paths if not path.name.startswith(".")}
