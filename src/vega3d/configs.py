"""Settings from YAML or JSON files: names that are known, and values of the right type."""

import difflib
import math
import reprlib
import types
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from vega3d.files import check_input

LARGEST_FILE = 1_000_000  # bytes
MOST_MERGED = 1000  # names that `<<` brings into one mapping
LARGEST = 1 << 63  # above all whole numbers; torch and numpy take no larger ones
NAME_LENGTH = 100  # characters, of a name to which others are compared
MERGE = "tag:yaml.org,2002:merge"


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
                told = f"{shown(key.value)} is given twice. Give it once."
                raise yaml.composer.ComposerError("in the names", node.start_mark, told, key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            told = f"holds {len(node.value)} names, but at most {MOST_MERGED} are read."
            raise yaml.constructor.ConstructorError(None, None, told, node.start_mark)


def read_mapping(path: Path, example: str) -> dict[str, Any]:
    """
    Args:
        path: of a YAML or JSON file.
        example: of a line of it, for the error.

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
            told = repr(f"{prefix}{name}") if short else f"{prefix}{shown(name)}"
            raise ValueError(f"There is no setting {told}.{meant} Settings are {', '.join(names)}.")


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value as the type of its field; a number may be written as YAML's text `1e-4`."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        return None if value is None else checked(name, value, inner[0])
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} is {shown(value)}, but must be one of {list(get_args(hint))}.")
        return value
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


def check_count(name: str, value: Any, least: int = 1, most: int = LARGEST - 1) -> None:
    """Raises ValueError unless a value is a whole number (Python's or numpy's) from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        limit = f"at least {least}" if most == LARGEST - 1 else f"from {least} to {most}"
        raise ValueError(f"{name} is {shown(value)}, but must be a whole number, {limit}.")


KINDS = {float: "a number", Path: "a path", int: "a whole number", bool: "true or false", str: "text"}
