"""What a run needs before its trials begin, wherever it begins or goes on: data, packs, its store, its nodes."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from orchestrator.attempt import forget_failure
from orchestrator.files import write_json
from orchestrator.launch import Launch, StorageSettings, Trial
from orchestrator.live import Watch
from orchestrator.runs import RunExistsError, RunNotFoundError, read_json, read_run, trial_folder
from orchestrator.storage import is_uri, open_store, reachable
from orchestrator.stored_packs import digest_in, get_pack


def pack_data(trials: Sequence[Trial], packs_folder: Path, watch: Watch, cache: str = "") -> dict[str, Path]:
    """Open every data set, then pack each as its trials need it; returns the pack's folder by trial name.

    Args:
        trials: of the launch.
        packs_folder: the folder of packs.
        watch: shows how far it is.
        cache: folder for data sets that are fetched, see `StorageSettings`.

    Raises:
        InputError: a data set cannot be used, or not be divided as a trial needs it.
    """
    from search.data.readers import open_dataset

    data_sets = {trial.data_set.name: trial.data_set for trial in trials}
    opened = {name: open_dataset(_data_here(item.path, watch, cache), item.reader) for name, item in data_sets.items()}
    packs: dict[Any, Path] = {}
    for trial in trials:
        key = (trial.data_set.name, trial.settings.data, trial.settings.seed)
        if key not in packs:
            packs[key] = _packed(opened[trial.data_set.name], trial, packs_folder, watch)
    return {trial.record.name: packs[trial.data_set.name, trial.settings.data, trial.settings.seed] for trial in trials}


def _data_here(place: str, watch: Watch, cache: str) -> Path:
    if not is_uri(place):
        return Path(place)
    from orchestrator.fetch import cache_folder, get_data

    with watch.counting(f"fetching {place}") as count:
        return get_data(place, cache_folder(cache), count)


def _packed(data_set: Any, trial: Trial, cache: Path, watch: Watch) -> Path:
    from search.data.loaders import divisible
    from search.data.pack import build_pack

    name, seed = trial.data_set.name, trial.settings.seed
    with watch.counting(f"packing {name}") as count:
        pack = build_pack(data_set, trial.settings.data, seed, cache, count)
    tiles = f"{len(pack.train.tiles)} training and {len(pack.test.tiles)} test tiles"
    if trial.record.method != "random" or trial.settings.retrain.validation_fraction:
        divisible(pack.train)
    watch.note(f"{name}, seed {seed}: {len(data_set.samples)} images, {tiles} of {pack.image_size} px")
    return pack.folder


def restore(run: Path, trials: Sequence[Trial], launch: Launch, watch: Watch) -> None:
    """Make trials ready to begin or go on, also on another machine: no old error, packs and other files in place."""
    files = {trial.record.name: trial_folder(run, trial.record.name) for trial in trials}
    for folder in files.values():
        forget_failure(folder)
    contents = {name: read_json(folder / "trial.json") for name, folder in files.items()}
    packs, lost = {}, []
    for trial in trials:
        content = contents[trial.record.name]
        if not Path(content["pack"]).is_dir():
            found = _stored_pack(content, launch.storage, run.parent / "packs", watch)
            packs.update({trial.record.name: found} if found else {})
            lost.extend([] if found else [trial])
    packs |= pack_data(lost, run.parent / "packs", watch, launch.storage.cache)
    for name, content in contents.items():
        new = dict(content)
        if name in packs:
            new |= {"pack": str(packs[name]), "pack_digest": digest_in(packs[name])}
        # Written to, so never where a record of another machine says. One in the run came with it from elsewhere.
        new["forms"] = str((run if (run / "forms.json").exists() else run.parent) / "forms.json")
        new.pop("storage", None)
        if launch.storage.uri:
            new["storage"] = {"uri": launch.storage.uri, "cache": launch.storage.cache}
        if new != content:
            write_json(files[name] / "trial.json", new)


def _stored_pack(content: Mapping[str, Any], storage: StorageSettings, packs: Path, watch: Watch) -> Path | None:
    """Return the pack of a trial, fetched from the store; None where that does not have it."""
    if not storage.uri or not content.get("pack_digest"):
        return None
    name = Path(content["pack"]).name
    try:
        found = get_pack(open_store(storage.uri), content["pack_digest"], name, packs)
    except (RunNotFoundError, OSError) as error:
        watch.note(f"{name} is packed anew ({error})")
        return None
    watch.note(f"{name} fetched from {storage.uri}")
    return found


def check_storage(launch: Launch, name: str | None) -> Sequence[str]:
    """Find out before anything is written that the store is not there; returns the runs that it has.

    Raises:
        RunExistsError: a run of this name among them.
        InputError: the store is away or refuses.
    """
    if not launch.storage.uri:
        return ()
    taken = reachable(launch.storage.uri).folders()
    if name in taken:
        place = f"{launch.storage.uri}/{name}"
        raise RunExistsError(f"{place}: this name is taken; choose another --name, or: defectnas resume {name}")
    return taken


def mirror_of(run: Path, launch: Launch, watch: Watch, may_wait: bool) -> AbstractContextManager[Any]:
    """Return what keeps a run in its store for the time of a with-block; nothing where it has none.

    Args:
        run: the run's folder.
        launch: what was asked.
        watch: gets a line now and then.
        may_wait: the with-block begins also while the store is away.
    """
    if not launch.storage.uri:
        return nullcontext()
    from orchestrator.mirror import Mirror

    contents = [read_json(trial_folder(run, trial.name) / "trial.json") for trial in read_run(run).trials]
    packs = {Path(content["pack"]) for content in contents}
    digests = {digest_in(pack): pack for pack in packs}
    watch.note(f"mirrored to {launch.storage.uri}/{run.name}")
    return Mirror(
        run,
        launch.storage.uri,
        packs={digest: pack for digest, pack in digests.items() if digest is not None},
        extra={"forms.json": run.parent / "forms.json"},
        every_s=launch.storage.every,
        may_wait=may_wait,
        note=watch.note,
    )


def sharing(run: Path, cluster: Any, watch: Watch) -> tuple[list[str] | None, Any]:
    """Return the ids of the nodes that see the run's folder, and what they offer; (None, all) if all of them do."""
    from clusters.connect import offer
    from orchestrator.nodes import nodes_that_see, put_token

    seeing, blind = nodes_that_see(run, put_token(run))
    if not blind:
        return None, cluster
    watch.note(f"{len(blind)} of {len(seeing) + len(blind)} nodes do not see {run}; trials are driven on the others")
    return seeing, offer(cluster.address, seeing)
