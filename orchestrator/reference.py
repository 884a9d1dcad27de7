"""docs/configuration.md and docs/cluster-profile.md, written from the settings: `python -m orchestrator.reference`."""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

from clusters.profile import Profile
from orchestrator.launch import ALL_BUDGETS, DataSetSettings, Launch
from orchestrator.schema import Described, describe

PATH = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
PROFILE_PATH = PATH.with_name("cluster-profile.md")

_HEAD = """\
# Configuration

<!-- Written by `python -m orchestrator.reference` from the settings in the code; do not edit. -->

Every setting has a default (the paper's number where the paper has one), is checked before anything starts,
and is written back resolved into the run (`runs/<run>/config.yaml`, which `--config` reads again).
Later ones win:

1. the budget: `--budget demo`, `smoke`, `short` or `paper`; without one, `paper` where there is a GPU, else
   `smoke`;
2. a YAML file: `--config FILE`; lists replace lists, other settings are taken one by one;
3. options and `--set KEY=VALUE`, keys dotted, values YAML: `--set search.epochs=5`, or
   `--set data.augment=[hflip]`.

`defectnas config --budget smoke` prints every setting as a launch would use it, `defectnas config --schema`
the JSON schema of such files. Texts, numbers and booleans are those of YAML 1.2: `off` is a text, `1e-3` a
number.

```yaml
budget: smoke
seeds: 2
data_sets:
  - path: ../datasets/KSDD          # seen from this file
  - path: ../datasets/MT
    settings: {image_size: 128}     # settings of the section data, for this data set alone
search:
  epochs: 5
```

A value marked [not stated] is one that the paper leaves open.
"""


_PROFILE_HEAD = """\
# The cluster profile

<!-- Written by `python -m orchestrator.reference` from the settings in the code; do not edit. -->

A TOML file that says what a cluster is. `defectnas cluster example KIND` prints a commented one to start from;
[clusters.md](clusters.md) says what to do with it. A key that does not exist is refused with the nearest one that does.
"""


def reference() -> str:
    """Return the text of docs/configuration.md."""
    parts = [_HEAD, _table("The launch", "", [entry for entry in describe(Launch) if len(entry.key) == 1])]
    hints = get_type_hints(Launch, include_extras=True)
    parts.append(_table("data_sets: a list of", DataSetSettings.__doc__ or "", _entries("data_sets[]")))
    for field in dataclasses.fields(Launch):
        if dataclasses.is_dataclass(hints[field.name]):
            parts.append(_table(field.name, hints[field.name].__doc__ or "", _entries(field.name)))
    return "\n".join(parts) + "\n"


def profile_reference() -> str:
    """Return the text of docs/cluster-profile.md."""
    parts = [_PROFILE_HEAD, _table("The profile", "", [entry for entry in describe(Profile) if len(entry.key) == 1])]
    hints = get_type_hints(Profile)
    for field in dataclasses.fields(Profile):
        for section, title in ((field.name, f"[{field.name}]"), (f"{field.name}[]", f"[[{field.name}]]")):
            entries = [entry for entry in describe(Profile) if len(entry.key) > 1 and entry.key[0] == section]
            if entries:
                cls = get_args(hints[field.name])[0] if section.endswith("[]") else hints[field.name]
                parts.append(_table(title, cls.__doc__, entries))
    return "\n".join(parts) + "\n"


def _entries(section: str) -> list[Described]:
    return [entry for entry in describe(Launch) if entry.key[0] == section]


def _table(title: str, text: str, entries: list[Described]) -> str:
    budgets = [name for name in ALL_BUDGETS if any(_changed(name, entry) is not None for entry in entries)]
    heads = ["setting", "default", *budgets, "allowed", "meaning"]
    rows = [heads, ["---"] * len(heads), *(_row(entry, budgets) for entry in entries)]
    lines = [f"\n## {title}\n", *([text.strip().splitlines()[0] + "\n"] if text else [])]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _row(entry: Described, budgets: list[str]) -> list[str]:
    changed = (_changed(name, entry) for name in budgets)
    cells = [_code(entry.default), *("" if value is None else _code(value) for value in changed)]
    return [f"`{'.'.join(entry.key)}`", *cells, _escaped(entry.allowed), _escaped(entry.help)]


def _changed(budget: str, entry: Described) -> Any:
    return ALL_BUDGETS[budget].get(entry.key[0], {}).get(entry.key[-1]) if len(entry.key) == 2 else None


def _code(value: Any) -> str:
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return "empty" if value == "" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for path, text in ((PATH, reference()), (PROFILE_PATH, profile_reference())):
        path.write_text(text, encoding="utf-8")
        print(path)
