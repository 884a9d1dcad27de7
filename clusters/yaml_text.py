"""Values as YAML that every reader takes for the same values."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

_NEVER_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"}


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1, 1.2 or Go's reader could take for something else; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _NEVER_TEXT
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def to_yaml(documents: Sequence[Any], heading: str) -> str:
    """Return documents as one YAML text.

    Args:
        documents: mappings, lists, texts, numbers and booleans.
        heading: a line of comment above them.
    """
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=10_000)
    return f"# {heading}\n{text}"
