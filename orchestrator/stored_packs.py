"""Packs in a store, by the digest of their content: once for all runs and trials that use them."""

import json
import re
import time
from pathlib import Path

from orchestrator.files import built_once
from orchestrator.runs import PLAIN_NAME, RunNotFoundError
from orchestrator.storage import Store
from orchestrator.trees import OBJECTS, DamagedStorageError, Manifest, get_files, manifests, newest_manifest, put_files


def put_pack(runs: Store, folder: Path, digest: str) -> None:
    """Put a pack into a store, unless it is there.

    Args:
        runs: the folder of runs in the store.
        folder: of the pack.
        digest: of its content.
    """
    place = runs.below(f"packs/{digest}")
    if manifests(place):
        return
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")}
    manifest = Manifest(1, "pack", time.time(), put_files(place, files, set(place.entries(OBJECTS))))
    place.write(manifest.name, manifest.to_bytes())


def get_pack(runs: Store, digest: str, name: str, packs: Path) -> Path:
    """Return the local folder of a pack, fetched and compared with its digest where it is not there.

    Of several processes of a machine that want it one fetches it and the others wait.

    Args:
        runs: the folder of runs in the store.
        digest: of the pack's content.
        name: of its folder.
        packs: the folder of packs.

    Raises:
        RunNotFoundError: the store does not have it.
        DamagedStorageError: what is there is not this pack.
        StorageAwayError, StorageRefusedError: the store cannot be asked.
    """
    from search.data.pack import BrokenPackError, open_pack

    if not PLAIN_NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DamagedStorageError(f"{runs.uri}: {name!r} with digest {digest!r} names no pack")
    target = packs / name
    if target.exists() and digest_in(target) != digest:
        target = packs / f"{name}-{digest[:16]}"
    place = runs.below(f"packs/{digest}")
    with built_once(target) as building:
        if building is not None:
            manifest = newest_manifest(place)
            if manifest is None:
                raise RunNotFoundError(f"{place.uri}: no pack there; the run that made it sends it when it begins")
            get_files(place, manifest, building)
            try:
                found = open_pack(building).digest
            except BrokenPackError as error:
                raise DamagedStorageError(f"{place.uri}: {error}") from error
            if found != digest:
                raise DamagedStorageError(f"{place.uri}: holds another pack, {found[:16]}; remove it")
    return target


def digest_in(pack: Path) -> str | None:
    """Return the digest that a pack says it has, None where there is no pack."""
    try:
        return str(json.loads((pack / "meta.json").read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError):
        return None
