"""Settings from YAML or JSON files: a dataclass whose names are known and whose values are of the right type.

The type hints of the dataclass say what is accepted: numbers, text, paths, `Literal`, optional values, tuples and
lists of one type, dicts from names to one type, and other such dataclasses. What a value may be beyond its type is
checked by the dataclass itself, in `__post_init__`, with `check_range` for limits.
"""

import difflib
import math
import reprlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from vega3d.files import check_input

LARGEST_FILE = 1_000_000  # bytes
MOST_MERGED = 1000  # names that `<<` brings into one mapping
LARGEST = 1 << 63  # above all whole numbers; torch and numpy take no larger ones
NAME_LENGTH = 100  # characters, of a name to which others are compared
MERGE = "tag:yaml.org,2002:merge"
KINDS = {float: "a number", Path: "a path", int: "a whole number", bool: "true or false", str: "text"}
UNIONS = (Union, types.UnionType)
Settings = TypeVar("Settings")  # a dataclass


class RangeError(ValueError):
    """A value of the right type that lies outside the limits of its field; the message begins with the field."""


class ShortRepr(reprlib.Repr):
    """`repr` of what a user gave, in one line that can be read: a short file can hold an endless value."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict, self.maxset = 2, 8, 8, 8, 8
        self.maxstring = self.maxlong = self.maxother = 120

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 4 * self.maxlong:  # Python does not write the longest ones at all
            return f"a whole number of {value.bit_length()} bits"
        return super().repr_int(value, level)


shown = ShortRepr().repr


class OneMeaningLoader(yaml.SafeLoader):
    """Plain values only. A name given twice in one mapping is refused, and so are merges that grow without end."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if (key.tag, key.value) in seen:
                problem = f"{shown(key.value)} is given twice. Give it once."
                raise yaml.composer.ComposerError("in the names", node.start_mark, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            problem = f"holds {len(node.value)} names, but at most {MOST_MERGED} are read."
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def read_settings(
    make: Callable[[dict[str, Any]], Settings],
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    example: str = "seed: 0",
) -> Settings:
    """Settings with the values of a YAML or JSON file.

    Args:
        make: gives them from plain values, as `make_settings` of their dataclass does.
        path: where the file lies.
        overrides: values that take the place of the file's; `dit.steps` names the `steps` within `dit`.
        example: a line that such a file may hold; an error shows it.

    Raises:
        ValueError: if the file cannot be read, or as `make` does; the message begins with the path.
    """
    values = read_mapping(path, example)
    try:
        return make(with_overrides(values, overrides or {}))
    except ValueError as error:
        changed = f" (with {', '.join(overrides)} changed)" if overrides else ""
        raise ValueError(f"{path}{changed}: {error}") from error


def make_settings(kind: type[Settings], values: Mapping[str, Any], prefix: str = "") -> Settings:
    """A dataclass from plain values, such as those of a file.

    Args:
        kind: a dataclass whose hints are of the types above.
        values: of its fields; those with a default may be left out. None leaves a required one out as well.
        prefix: of the names in errors, such as `dit.`.

    Raises:
        ValueError: for a name that is not known, with the nearest one that is; for a required field that is left out;
            for a value of another type, with the type that is wanted.
    """
    hints = get_type_hints(kind)
    refuse_unknown(values, hints, prefix)
    missing = [
        prefix + field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and values.get(field.name) is None
    ]
    if missing:
        raise ValueError(f"The config does not say {', '.join(missing)}.")
    typed = {name: checked(prefix + name, value, hints[name]) for name, value in values.items()}
    try:
        return kind(**typed)
    except RangeError as error:  # a dataclass does not know within which others it lies
        raise RangeError(f"{prefix}{error}") from error


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values with others in their place; a name with dots leads into the mappings within."""
    result = dict(values)
    for name, value in overrides.items():
        outer, dot, inner = name.partition(".")
        if dot:
            within = named_values(prefix + outer, result.get(outer))
            value = with_overrides(within, {inner: value}, f"{prefix}{outer}.")
        result[outer] = value
    return result


def named_values(name: str, value: Any) -> Mapping[str, Any]:
    """A mapping from text, empty for None; raises ValueError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(inner, str) for inner in value):
        raise ValueError(f"{name} is {shown(value)}, but must hold names with values.")
    return value


def read_mapping(path: Path, example: str) -> dict[str, Any]:
    """The names and values of a YAML or JSON file; an error shows `example`, a line that such a file may hold.

    Raises:
        ValueError: if the file cannot be read, gives a name twice, or holds something else than names with values.
    """
    try:
        file = check_input(path)
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has {file.stat().st_size} bytes, but settings have at most {LARGEST_FILE}.")
        values = yaml.load(file.read_text(encoding="utf-8"), OneMeaningLoader)
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is nested too deeply.") from error
    # The loader takes apart dates and numbers without looking: `!!int ""` is an IndexError, for one.
    except (OSError, ValueError, LookupError, AttributeError, OverflowError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no names with values, such as `{example}`.")
    return values


def refuse_unknown(values: Mapping[Any, Any], known: Iterable[str], prefix: str = "") -> None:
    """Raises ValueError for a name that is not known, with the nearest one that is."""
    names = list(known)
    for name in values:
        if name not in names:
            short = isinstance(name, str) and len(name) <= NAME_LENGTH
            near = difflib.get_close_matches(name, names, 1) if short else []
            meant = f" Did you mean {prefix + near[0]!r}?" if near else ""
            wrong = repr(f"{prefix}{name}") if short else f"{prefix}{shown(name)}"
            raise ValueError(f"There is no setting {wrong}.{meant} Settings are {', '.join(names)}.")


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value as the type of its field; a number may be written as YAML's text `1e-4`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return None if value is None else checked(name, value, next(one for one in inner if one is not type(None)))
    if hint is Any or (is_dataclass(hint) and isinstance(value, hint)):  # type: ignore[arg-type]
        return value
    if is_dataclass(hint):
        return make_settings(hint, named_values(name, value), f"{name}.")  # type: ignore[arg-type]
    if origin is dict:
        return {key: checked(f"{name}.{key}", one, inner[1]) for key, one in named_values(name, value).items()}
    if origin in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} is {shown(value)}, but must be a list.")
        items = (checked(f"{name}[{number}]", one, inner[0]) for number, one in enumerate(value))
        return list(items) if origin is list else tuple(items)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{name} is {shown(value)}, but must be one of {list(inner)}.")
        return value
    return checked_plain(name, value, hint)


def checked_plain(name: str, value: Any, hint: type) -> Any:
    """A number, a path, true or false, or text."""
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif hint is Path and isinstance(value, (str, Path)) and str(value) and "\0" not in str(value):
        return Path(value)
    elif hint is int and type(value) is int and abs(value) >= LARGEST:
        raise ValueError(f"{name} is {shown(value)}, but must lie between -2^63 and 2^63.")
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{name} is {shown(value)}, but must be {KINDS[hint]}.")


def check_range(
    settings: Any,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Raises a RangeError unless each of the named fields of a dataclass lies within the limits that are given.

    A field that is None has no value to check.
    """
    for name in names:
        value = vars(settings)[name]
        for limit, words, is_within in (
            (least, "at least", lambda value, limit: value >= limit),
            (above, "above", lambda value, limit: value > limit),
            (below, "below", lambda value, limit: value < limit),
            (most, "at most", lambda value, limit: value <= limit),
        ):
            if value is not None and limit is not None and not is_within(value, limit):
                raise RangeError(f"{name} is {shown(value)}, but must be {words} {limit}.")


def check_count(name: str, value: Any, least: int = 1, most: int = LARGEST - 1) -> None:
    """Raises ValueError unless a value is a whole number (Python's or numpy's) from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        limit = f"at least {least}" if most == LARGEST - 1 else f"from {least} to {most}"
        raise ValueError(f"{name} is {shown(value)}, but must be a whole number, {limit}.")
