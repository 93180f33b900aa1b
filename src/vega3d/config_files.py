"""Settings from YAML or JSON files: names that are known, and values of the right type."""

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml


def read_mapping(path: Path, example: str) -> dict[str, Any]:
    """
    Args:
        path: of a YAML or JSON file.
        example: of a line of it, for the error.

    Raises:
        ValueError: if the file cannot be read, or holds something else than names with values.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no names with values, such as `{example}`.")
    return values


def refuse_unknown(values: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> None:
    """Raises ValueError for a name that is not known, with the nearest one that is."""
    names = list(known)
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1)
            meant = f" Did you mean {prefix + near[0]!r}?" if near else ""
            raise ValueError(f"There is no setting {f'{prefix}{name}'!r}.{meant} Settings are {', '.join(names)}.")


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value as the type of its field; a number may be written as YAML's text `1e-4`."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        return None if value is None else checked(name, value, inner[0])
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} is {value!r}, but must be one of {list(get_args(hint))}.")
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    elif hint is Path and isinstance(value, (str, Path)) and str(value):
        return Path(value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{name} is {value!r}, but must be {KINDS[hint]}.")


KINDS = {float: "a number", Path: "a path", int: "a whole number", bool: "true or false", str: "text"}
