"""Validation derived from frozen dataclasses: a setting is written once, with its default, unit and bounds.

`model_of` turns a dataclass whose fields were made by `search.settings.setting` into a pydantic model;
`validate` reads values through it and words every problem as one line that names what is allowed.
"""

import dataclasses
import difflib
import functools
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

Key = tuple[str, ...]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "multiple_of": "a multiple of {}",
}


@dataclasses.dataclass(frozen=True)
class OverridesOf:
    """Marks `Annotated[Mapping[str, Any], OverridesOf(cls)]`: some of the settings of cls."""

    cls: type


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing wrong with the values: its key, and what to say after the key."""

    key: Key
    text: str


class InvalidSettingsError(Exception):
    """The values do not fit; `problems` holds all that is wrong with them."""

    def __init__(self, problems: Sequence[Problem]):
        super().__init__("; ".join(f"{'.'.join(problem.key)}: {problem.text}" for problem in problems))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Described:
    """One setting as documentation shows it."""

    key: Key
    default: Any
    help: str
    allowed: str


@functools.cache
def model_of(cls: type, partial: bool = False) -> type[BaseModel]:
    """Return the pydantic model of a dataclass and of those nested in it.

    Args:
        cls: the dataclass.
        partial: every field may be left out and has no default then (overrides of another value).
    """
    hints = get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        default = {"default": None} if partial else _default(field, hints[field.name])
        annotation = _annotation(hints[field.name], field.metadata.get("bounds", {}))
        fields[field.name] = (annotation, Field(description=field.metadata.get("help"), **default))
    name = f"{cls.__name__}Overrides" if partial else cls.__name__
    return create_model(name, __config__=_STRICT, __doc__=cls.__doc__, **fields)


def validate(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values checked and completed with defaults, as plain dictionaries, lists and scalars.

    Args:
        cls: the dataclass that the values describe.
        values: nested, as read from YAML or JSON.

    Raises:
        InvalidSettingsError: unknown keys, missing ones, wrong types or values out of bounds.
    """
    try:
        # Through JSON, where pydantic's strict mode takes a list for a tuple and still no "5" for 5.
        model = model_of(cls).model_validate_json(json.dumps(values))
    except ValidationError as error:
        found = {problem.key: problem for problem in (_problem(cls, values, entry) for entry in error.errors())}
        raise InvalidSettingsError(list(found.values())) from error
    return json.loads(model.model_dump_json(exclude_none=True))


def rebuild(cls: type, values: Mapping[str, Any]) -> Any:
    """Return the dataclass of values that `validate` gave; lists become tuples."""
    return cls(**_rebuilt_fields(cls, values))


def _rebuilt_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: _rebuilt(hints[name], value) for name, value in values.items()}


def _rebuilt(annotation: Any, value: Any) -> Any:
    inside = _element(annotation)
    if inside is not None:
        return tuple(_rebuilt(inside, item) for item in value)
    if (overridden := _overridden(annotation)) is not None:
        return _rebuilt_fields(overridden, value)
    nested = isinstance(annotation, type) and dataclasses.is_dataclass(annotation)
    return rebuild(annotation, value) if nested else value


def describe(cls: type, key: Key = ()) -> Iterator[Described]:
    """Yield every setting of a dataclass and of those nested in it, in their order."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        annotation, path = hints[field.name], (*key, field.name)
        many = _element(annotation)
        if dataclasses.is_dataclass(annotation):
            yield from describe(annotation, path)  # type: ignore[arg-type]
        elif dataclasses.is_dataclass(many):
            yield from describe(many, (*key, f"{field.name}[]"))  # type: ignore[arg-type]
        else:
            yield Described(path, field.default, field.metadata["help"], _allowed(annotation, field.metadata))


def dotted_keys(cls: type) -> list[str]:
    """Return the dotted keys of all settings of a dataclass."""
    return [".".join(described.key) for described in describe(cls)]


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """Return the choice that looks most like word, or None where none comes near."""
    return next(iter(difflib.get_close_matches(word, choices, n=1, cutoff=0.6)), None)


def _default(field: dataclasses.Field[Any], annotation: Any) -> dict[str, Any]:
    if (section := _overridden(annotation)) is not None:
        return {"default_factory": model_of(section, partial=True)}
    if dataclasses.is_dataclass(annotation):
        return {"default_factory": model_of(annotation)}  # type: ignore[arg-type]
    if field.default_factory is not dataclasses.MISSING:
        return {"default_factory": field.default_factory}
    return {} if field.default is dataclasses.MISSING else {"default": field.default}


def _annotation(annotation: Any, bounds: Mapping[str, Any]) -> Any:
    inside = _element(annotation)
    if inside is not None:
        return tuple[_annotation(inside, bounds), ...]  # type: ignore[misc]
    if (overridden := _overridden(annotation)) is not None:
        return model_of(overridden, partial=True)
    if dataclasses.is_dataclass(annotation):
        return model_of(annotation)  # type: ignore[arg-type]
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_annotation(part, bounds) for part in get_args(annotation))]  # noqa: UP007 - built at run time
    # Only numbers have bounds; `16 | "auto"` would compare "auto" with 16 otherwise.
    return Annotated[annotation, Field(**bounds)] if bounds and annotation in (int, float) else annotation


def _element(annotation: Any) -> Any | None:
    """Return X of tuple[X, ...], None for anything else."""
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def _overridden(annotation: Any) -> type | None:
    return next((mark.cls for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, OverridesOf)), None)


def _problem(cls: type, values: Mapping[str, Any], error: Any) -> Problem:
    key, section, annotation, metadata = _locate(cls, [str(part) for part in error["loc"]])
    if error["type"] == "extra_forbidden":
        return Problem(key, _unknown(cls, key, section))
    if error["type"] == "missing":
        return Problem(key, f"missing; needed is {_allowed(annotation, metadata)}")
    return Problem(key, f"{_given(values, key)!r} is not allowed; allowed: {_allowed(annotation, metadata)}")


def _locate(cls: type, location: list[str]) -> tuple[Key, type, Any, Mapping[str, Any]]:
    """Return a location's key (union tags left out), the class that has it, its type and its metadata."""
    section, annotation = cls, cls  # type: type, Any
    metadata: Mapping[str, Any] = {}
    for depth, part in enumerate(location):
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            section = annotation
            fields = {field.name: field for field in dataclasses.fields(section)}
            if part not in fields:
                return tuple(location[: depth + 1]), section, None, {}
            annotation = get_type_hints(section, include_extras=True)[part]
            metadata = fields[part].metadata
            annotation = _overridden(annotation) or annotation
        elif part.isdigit() and _element(annotation) is not None and dataclasses.is_dataclass(_element(annotation)):
            annotation = _element(annotation)
        else:
            return tuple(location[:depth]), section, annotation, metadata
    return tuple(location), section, annotation, metadata


def _unknown(cls: type, key: Key, section: type) -> str:
    names = [field.name for field in dataclasses.fields(section)]
    if near := nearest(key[-1], names):
        return f"no such setting; did you mean {'.'.join((*key[:-1], near))}?"
    elsewhere = [dotted for dotted in dotted_keys(cls) if dotted.rpartition(".")[2] == key[-1]]
    if elsewhere:
        return f"no such setting here; did you mean {' or '.join(elsewhere)}?"
    return f"no such setting; allowed here: {', '.join(names)}"


def _given(values: Any, key: Key) -> Any:
    for part in key:
        values = values[int(part)] if isinstance(values, Sequence) else values[part]
    return values


def _allowed(annotation: Any, metadata: Mapping[str, Any]) -> str:
    """Return in words what a setting may be, with its unit and bounds."""
    bounds, unit = metadata.get("bounds", {}), metadata.get("unit")
    inside = _element(annotation)
    if inside is None:
        return _words(annotation, bounds, unit)
    if inside in _NAMES:
        return f"a list of {_NAMES[inside].removeprefix('a ')}s"
    return f"a list, each {_words(inside, {}, None)}"


def _words(annotation: Any, bounds: Mapping[str, Any], unit: str | None) -> str:
    section = _overridden(annotation) or annotation
    if get_origin(annotation) is Mapping:
        return f"a table, each {_words(get_args(annotation)[1], {}, None)}"
    if dataclasses.is_dataclass(section):
        return f"a section with {', '.join(field.name for field in dataclasses.fields(section))}"
    if _element(annotation) is not None:
        return _allowed(annotation, {})
    if get_origin(annotation) is Literal:
        return ("one of " if len(get_args(annotation)) > 1 else "") + ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        return ", or ".join(_words(part, bounds, unit) for part in get_args(annotation))
    if annotation not in (int, float):
        return _NAMES[annotation]
    limits = [_BOUNDS[name].format(bound) for name, bound in bounds.items()]
    return ", ".join([_NAMES[annotation] + (f" ({unit})" if unit else ""), *limits])
