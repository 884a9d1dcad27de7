"""The configuration of a launch: budget, file and options merged, checked, and resolved into one value.

Later layers win: budget < configuration file < options and --set.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.architecture import OPERATOR_NAMES
from orchestrator.files import parse_yaml
from orchestrator.launch import ALL_BUDGETS, BUDGETS_OF, DataSetSettings, Launch
from orchestrator.runs import PLAIN_NAME
from orchestrator.schema import InvalidSettingsError, Key, Problem, nearest, rebuild, validate
from orchestrator.storage import StorageUriError, check_uri, is_uri
from orchestrator.tracking_uri import PASSWORD
from search.errors import InputError
from search.secret_texts import has_password
from search.settings import NetworkSettings


class ConfigError(InputError):
    """One or more settings cannot be used; a line for each, naming its origin and key."""


@dataclass(frozen=True)
class Layer:
    """Settings from one place: `origin` names it in messages."""

    origin: str
    values: Mapping[str, Any]


def resolve(layers: Sequence[Layer], *, budget: str | None = None, default_budget: str = "paper") -> Launch:
    """Return the launch that the layers ask for, completed and checked.

    Args:
        layers: from weakest to strongest; a stronger one replaces single settings, lists as a whole.
        budget: what the settings start from; None: what a layer says, else default_budget.
        default_budget: the budget where nothing names one.

    Raises:
        ConfigError: a setting is unknown, out of bounds or at odds with another.
    """
    chosen = budget or next(
        (layer.values["budget"] for layer in reversed(layers) if "budget" in layer.values), default_budget
    )
    method = next((layer.values["method"] for layer in reversed(layers) if "method" in layer.values), "asdet")
    budgets = BUDGETS_OF.get(method, ALL_BUDGETS) if isinstance(method, str) else ALL_BUDGETS
    base = budgets.get(chosen) if isinstance(chosen, str) else None
    named = Layer("--budget", {"budget": chosen})
    stack = [Layer(f"budget {chosen}", base or {}), *layers, *([named] if budget or base else [])]
    values: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    for layer in stack:
        _merge(values, json.loads(json.dumps(layer.values)), layer.origin, origins)
    try:
        launch = rebuild(Launch, validate(Launch, values))
        launch = dataclasses.replace(launch, data_sets=_named(launch.data_sets))
        if problems := list(_contradictions(launch)):
            raise InvalidSettingsError(problems)
    except InvalidSettingsError as error:
        raise ConfigError("\n".join(_line(problem, origins) for problem in error.problems)) from error
    return launch


def file_layer(path: Path) -> Layer:
    """Return the settings of a YAML file; data-set folders and cluster profiles are seen from its own folder.

    Raises:
        ConfigError: the file cannot be read, or is not a mapping of plain values.
        InvalidYamlError: it is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration file ({error})") from error
    values = parse_yaml(text, str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a mapping of settings is needed, as 'search: {{epochs: 5}}'")
    try:
        json.dumps(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; settings are texts, numbers, booleans, lists and mappings") from error
    if isinstance(values.get("data_sets"), list):
        values = {**values, "data_sets": [_rooted(entry, path.parent) for entry in values["data_sets"]]}
    cluster = values.get("cluster")
    if isinstance(cluster, dict) and str(cluster.get("address", "")).endswith(".toml"):
        profile = str((path.parent / Path(cluster["address"]).expanduser()).resolve())
        values = {**values, "cluster": {**cluster, "address": profile}}
    return Layer(str(path), values)


def set_layer(assignments: Sequence[str]) -> Layer:
    """Return the settings of `--set key=value` options; keys are dotted, values are YAML.

    Raises:
        ConfigError: one has no '=', or a key that is a part of another one's.
        InvalidYamlError: a value is not YAML.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: a key, '=' and a value are needed, as search.epochs=5")
        *sections, last = key.split(".")
        here = values
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                raise ConfigError(f"--set {assignment}: {section} was given a value of its own by another --set")
        here[last] = parse_yaml(text, f"--set {key}")
    return Layer("--set", values)


def data_sets_layer(places: Sequence[str | Path]) -> Layer:
    """Return the layer of `--data` options, folders or URIs; they replace the data sets of a file."""
    paths = [str(place) if is_uri(place) else str(Path(place).resolve()) for place in places]
    return Layer("--data", {"data_sets": [{"path": path} for path in paths]} if paths else {})


def _rooted(entry: Any, folder: Path) -> Any:
    if isinstance(entry, str):
        entry = {"path": entry}
    if isinstance(entry, dict) and isinstance(entry.get("path"), str) and not is_uri(entry["path"]):
        return {**entry, "path": str((folder / Path(entry["path"]).expanduser()).resolve())}
    return entry


def _merge(into: dict[str, Any], values: Mapping[str, Any], origin: str, origins: dict[Key, str], at: Key = ()) -> None:
    for name, value in values.items():
        key = (*at, name)
        if isinstance(value, dict) and isinstance(into.get(name, {}), dict):
            origins.setdefault(key, origin)
            _merge(into.setdefault(name, {}), value, origin, origins, key)
        else:
            into[name] = value
            origins[key] = origin


def _line(problem: Problem, origins: Mapping[Key, str]) -> str:
    prefixes = (problem.key[:length] for length in range(len(problem.key), 0, -1))
    origin = next((origins[prefix] for prefix in prefixes if prefix in origins), "configuration")
    return f"{origin}: {'.'.join(problem.key)}: {problem.text}"


def _named(data_sets: Sequence[DataSetSettings]) -> tuple[DataSetSettings, ...]:
    """Return the data sets with a name each: the folder's, longer by its parents where two are the same."""
    paths = [Path(data_set.path) for data_set in data_sets]
    return tuple(
        dataclasses.replace(
            data_set, name=data_set.name or _distinct(path, [other for other in paths if other != path])
        )
        for data_set, path in zip(data_sets, paths, strict=True)
    )


def _distinct(path: Path, others: Sequence[Path]) -> str:
    parts = [part for part in path.parts if part != path.anchor]
    for length in range(1, len(parts) + 1):
        tail = parts[-length:]
        if all([part for part in other.parts if part != other.anchor][-length:] != tail for other in others):
            break
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(tail)).strip("-.") or "data" if parts else "data"


def _contradictions(launch: Launch) -> Iterator[Problem]:
    yield from _passwords(json.loads(json.dumps(dataclasses.asdict(launch))))
    yield from _in_search(launch)
    yield from _in_network(launch.network)
    yield from _in_space(launch)
    yield from _in_data_sets(launch)
    if launch.retrain.select == "best_val" and launch.retrain.validation_fraction == 0:
        yield Problem(
            ("retrain", "select"),
            "best_val selects by held-out images: give retrain.validation_fraction above 0",
        )
    if launch.storage.uri:
        yield from _in_uri(("storage", "uri"), launch.storage.uri)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", launch.runtime.device):
        yield Problem(
            ("runtime", "device"),
            f"{launch.runtime.device!r} is not allowed; allowed: auto, cpu, cuda, cuda:N",
        )
    hybrid = launch.method == "autonad"
    least = (1 if hybrid else 2) * launch.resources.workers
    batches = {"search": launch.search.batch, "retrain": launch.retrain.batch}
    for section, batch in ({"supernet": launch.supernet.batch} if hybrid else batches).items():
        if launch.resources.workers > 1 and batch < least:
            text = f"{batch} tiles for {launch.resources.workers} workers; needed is at least {least}"
            yield Problem((section, "batch"), text)
    if not re.fullmatch(r"([\w./-]+=[\w.-]+)?", launch.latency.node):
        yield Problem(("latency", "node"), f"{launch.latency.node!r} is not allowed; allowed: a label, as KEY=VALUE")
    if launch.resources.least_workers > launch.resources.workers:
        text = f"{launch.resources.least_workers} is more than resources.workers, {launch.resources.workers}"
        yield Problem(("resources", "least_workers"), text)
    if launch.resources.workers > 1 and ":" in launch.runtime.device:
        text = f"{launch.runtime.device} is one device for {launch.resources.workers} workers; give auto"
        yield Problem(("runtime", "device"), text)
    if launch.baseline == launch.method:
        yield Problem(("baseline",), f"{launch.baseline} is the method itself; allowed: none")


def _passwords(values: Any, key: Key = ()) -> Iterator[Problem]:
    """Yield the settings that hold a password: they are written to config.yaml, and sent to MLflow."""
    if isinstance(values, str):
        # Of the URI of a store `_in_uri` says it, and what to do instead.
        if not _of_store(key) and has_password(values):
            text = PASSWORD if key == ("tracking", "uri") else "holds a password, and settings are written down"
            yield Problem(key, text)
    elif isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _passwords(value, (*key, str(name)))


def _of_store(key: Key) -> bool:
    return key == ("storage", "uri") or (key[:1] == ("data_sets",) and key[-1] == "path")


def _in_search(launch: Launch) -> Iterator[Problem]:
    keep, operators = launch.search.keep, launch.network.operators
    if not keep or keep[-1] != 1 or any(after >= before for before, after in itertools.pairwise(keep)):
        yield Problem(
            ("search", "keep"),
            f"{list(keep)} is not allowed; needed is a falling list that ends in 1, as [7, 4, 2, 1]",
        )
    elif keep[0] >= len(operators):
        yield Problem(
            ("search", "keep"),
            f"the first stage keeps {keep[0]} of {len(operators)} network.operators; it has to keep fewer",
        )
    if launch.search.warmup_epochs >= launch.search.epochs:
        text = (
            f"{launch.search.warmup_epochs} leaves no epoch for the alphas; "
            f"needed is less than search.epochs ({launch.search.epochs})"
        )
        yield Problem(("search", "warmup_epochs"), text)


def _in_space(launch: Launch) -> Iterator[Problem]:
    from models.hybrid_space import InvalidSpace
    from search.hybrid_settings import space_of

    try:
        space_of(launch.space)
    except InvalidSpace as error:
        yield Problem(("space",), str(error))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", launch.latency.device):
        yield Problem(
            ("latency", "device"), f"{launch.latency.device!r} is not allowed; allowed: auto, cpu, cuda, cuda:N"
        )


def _in_network(network: NetworkSettings) -> Iterator[Problem]:
    for operator in network.operators:
        if operator not in OPERATOR_NAMES:
            near = nearest(operator, OPERATOR_NAMES)
            hint = f"did you mean {near}?" if near else f"allowed: {', '.join(OPERATOR_NAMES)}"
            yield Problem(("network", "operators"), f"no operator {operator!r}; {hint}")
    if len(set(network.operators)) != len(network.operators):
        yield Problem(("network", "operators"), "an operator is given twice")
    # The five levels have 4C(1 + 2 + 4 + 8 + 16) channels together (house rule: widths double per level).
    joined = 4 * network.channels * 31
    if network.fusion == "adaptive" and network.fusion_reduction > joined:
        text = (
            f"{network.fusion_reduction} leaves no hidden unit of the {joined} channels joined; "
            f"needed is at most {joined}"
        )
        yield Problem(("network", "fusion_reduction"), text)


def _in_uri(key: Key, uri: str) -> Iterator[Problem]:
    try:
        check_uri(uri)
    except StorageUriError as error:
        yield Problem(key, str(error))


def _in_data_sets(launch: Launch) -> Iterator[Problem]:
    for index, data_set in enumerate(launch.data_sets):
        key = ("data_sets", str(index))
        if is_uri(data_set.path):
            yield from _in_uri((*key, "path"), data_set.path)
        earlier = launch.data_sets[:index]
        if any(Path(data_set.path) == Path(other.path) and data_set.settings == other.settings for other in earlier):
            yield Problem(key, f"{data_set.path} is given twice")
        elif any(data_set.name == other.name for other in earlier):
            yield Problem((*key, "name"), f"{data_set.name!r} names two data sets; give each a name of its own")
        if not PLAIN_NAME.fullmatch(data_set.name):
            yield Problem(
                (*key, "name"),
                f"{data_set.name!r} is not allowed; allowed: letters, digits, '.', '_' and '-', first none of '.-'",
            )
    names = [trial.record.name for trial in launch.trials()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield Problem(("data_sets",), f"two trials would be called {twice[0]}; give the data sets other names")
