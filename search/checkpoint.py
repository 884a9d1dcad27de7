"""Checkpoints: tensors as safetensors, the rest as JSON, found damaged by checksum, replaced atomically.

No pickle is written or read. A checkpoint is two files, `<name>-<step>.safetensors` and `<name>-<step>.json`; the
JSON is renamed into place last and holds the checksum of both, so a checkpoint either exists whole or not at
all. The two newest are kept: if the newest is damaged, the one before is used.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from search.errors import InputError

KEPT = 2


class CheckpointDamaged(InputError):
    """No checkpoint of this name can be read."""


class CheckpointMismatch(InputError):
    """The checkpoint belongs to another configuration."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the JSON state beside them; `damaged` names newer files that could not be used."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    damaged: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path, name: str, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write one checkpoint and remove all but the newest `KEPT`.

    Args:
        folder: created if absent.
        name: what is saved, "search"; steps of one name are in one order.
        step: grows from checkpoint to checkpoint.
        tensors: on any device; saved from the CPU.
        state: JSON values; key "digest" is compared by `load_checkpoint`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    stem = f"{name}-{step:08d}"
    write_atomically(folder / f"{stem}.safetensors", data)
    record = {"step": step, "sha256": _checksum(data, dict(state)), "state": dict(state)}
    write_atomically(folder / f"{stem}.json", json.dumps(record, allow_nan=False).encode())
    for old in _steps(folder, name)[KEPT:]:
        for suffix in ("json", "safetensors"):
            (folder / f"{name}-{old:08d}.{suffix}").unlink(missing_ok=True)


def load_checkpoint(folder: Path, name: str, digest: str) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None if none was ever written.

    Args:
        digest: of the configuration that goes on from it.

    Raises:
        CheckpointDamaged: there are checkpoints, and none is whole.
        CheckpointMismatch: it was written under another configuration.
    """
    damaged: list[str] = []
    for step in _steps(folder, name):
        try:
            checkpoint = _read(folder / f"{name}-{step:08d}")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            damaged.append(f"{folder / name}-{step:08d}: {error}")
            continue
        if checkpoint.state.get("digest") != digest:
            raise CheckpointMismatch(
                f"{folder / name}-{step:08d}.json was written under another configuration; "
                "put back the settings and data of the trial's trial.json, or start a new run"
            )
        return Checkpoint(checkpoint.step, checkpoint.tensors, checkpoint.state, tuple(damaged))
    if damaged:
        raise CheckpointDamaged(
            f"{damaged[0]}: damaged, and no older checkpoint is whole; remove {folder} to start this trial anew"
        )
    return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whole, also after a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # Writing, unlike opening, does not say where.
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def pack_module(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers under `prefix.`."""
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def pack_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state under `prefix.<parameter number>.<key>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{i}.{key}": torch.as_tensor(value)
        for i, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `prefix.` without it."""
    start = len(prefix) + 1
    return {key[start:]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def unpack_optimizer(prefix: str, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Put back what `pack_optimizer` took; learning rates are left as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in unpack(prefix, tensors).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _steps(folder: Path, name: str) -> list[int]:
    """Return the steps for which a JSON file exists, newest first."""
    stems = [path.stem.rpartition("-") for path in folder.glob(f"{name}-*.json")]
    return sorted((int(step) for start, _, step in stems if start == name and step.isdigit()), reverse=True)


def _read(stem: Path) -> Checkpoint:
    record = json.loads(stem.with_suffix(".json").read_text())
    data = stem.with_suffix(".safetensors").read_bytes()
    if _checksum(data, record["state"]) != record["sha256"]:
        raise ValueError("the checksum differs: truncated or altered")
    return Checkpoint(int(record["step"]), load(data), record["state"])


def _checksum(data: bytes, state: dict[str, Any]) -> str:
    return hashlib.sha256(data + json.dumps(state, sort_keys=True).encode()).hexdigest()
