"""Batches of tiles, and the division of the training tiles between weights and alphas.

There are no worker processes: tiles are decoded and mapped already, and what a batch needs is an index and a
copy. The order of the tiles and their random changes are a function of a key, so that an epoch can be run
again, or from its middle, without any state of the iterator.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from search.data.augment import augment as change
from search.data.pack import Pack, TileSet
from search.data.splits import Unit, pick
from search.errors import InputError


class TooFewTilesError(InputError):
    """There are not enough tiles for one batch, or not enough images to divide."""


def batches(
    tiles: TileSet,
    indices: np.ndarray,
    batch: int,
    *,
    pack: Pack,
    augment: tuple[str, ...] = (),
    key: tuple[int | str, ...],
    shuffle: bool,
    drop_last: bool,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, masks): float32 (B, C, S, S), normalised by the pack's mean and std; int64 (B, S, S).

    Args:
        tiles: of the pack.
        indices: of the tiles to pass over, integer.
        batch: tiles per batch.
        pack: gives mean and std.
        augment: names of random changes, see `augment.AUGMENTATIONS`.
        key: what order and changes are drawn from, e.g. (seed, "weights", stage, epoch).
        shuffle: pass over the tiles in an order drawn from the key.
        drop_last: leave out a last batch that is not full.
        device: where the batches shall be.

    Raises:
        TooFewTilesError: not one batch would come out.
    """
    if len(indices) == 0 or (drop_last and len(indices) < batch):
        raise TooFewTilesError(f"{pack.name}: {len(indices)} tiles do not fill one batch of {batch}; lower the batch")
    order = np.random.default_rng(seed_of(*key)).permutation(indices) if shuffle else np.asarray(indices)
    count = len(order) // batch if drop_last else -(-len(order) // batch)
    return _batches(tiles, order, batch, count, pack, augment, key, torch.device(device))


def _batches(
    tiles: TileSet,
    order: np.ndarray,
    batch: int,
    count: int,
    pack: Pack,
    names: tuple[str, ...],
    key: tuple[int | str, ...],
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    mean = torch.tensor(pack.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(pack.std, device=device).view(1, -1, 1, 1)
    for number in range(count):
        chosen = order[number * batch : (number + 1) * batch]
        # Bytes travel to the device and are widened there.
        images = torch.from_numpy(tiles.images[chosen]).to(device).permute(0, 3, 1, 2).float().div_(255)
        masks = torch.from_numpy(tiles.masks[chosen]).to(device).long()
        if names:
            images, masks = change(images, masks, names, seed_of(*key, "augment", number))
        yield ((images - mean) / std).contiguous(), masks


def seed_of(*key: int | str) -> int:
    """Return a seed in [0, 2^63) for a key; the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1


def divide(tiles: TileSet, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rest, taken): indices of tiles, int64, ascending; together all tiles, and disjoint.

    Whole groups are divided (an image of unknown group is its own), so that the windows of one image and the
    images of one part stay on one side; balanced over defect areas and, where masks tell, classes.
    Source: NAS-ASDet Sec. 4.1.5, which divides 6:4 and does not say by what.

    Args:
        tiles: of a pack.
        fraction: share of the images to take, in (0, 1).
        seed: of the random choice.

    Raises:
        TooFewTilesError: there are less than two groups.
    """
    members = divisible(tiles)
    taken = pick([_unit(tiles, name, inside) for name, inside in members.items()], fraction, seed)
    is_taken = np.zeros(len(tiles.tiles), bool)
    is_taken[[i for name in taken for i in members[name]]] = True
    return np.flatnonzero(~is_taken), np.flatnonzero(is_taken)


def divisible(tiles: TileSet) -> dict[str, list[int]]:
    """Return the indices of the tiles of each group that `divide` keeps together.

    Raises:
        TooFewTilesError: there are less than two groups.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, tile in enumerate(tiles.tiles):
        members[_unit_name(tiles, tile.source)].append(index)
    if len(members) < 2:
        raise TooFewTilesError(
            f"data.alpha_fraction: all training tiles show one part ({next(iter(members))}); "
            "2 or more are needed to divide them"
        )
    return members


def _unit_name(tiles: TileSet, source: int) -> str:
    group, name = tiles.sources[source].group, tiles.sources[source].name
    return f"group {group}" if group is not None else f"image {name}"


def _unit(tiles: TileSet, name: str, inside: list[int]) -> Unit:
    counts = np.bincount(tiles.masks[inside].ravel())
    defects = int(counts[1:].sum())
    images = len({tiles.tiles[i].source for i in inside})
    label = int(counts[1:].argmax()) if defects else None
    return Unit(name, images, label, defects / int(counts.sum()))
