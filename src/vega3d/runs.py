"""What a run is known by: its settings, the versions of libraries, and hashes of the files that it reads."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from vega3d.configs import shown
from vega3d.files import read_json

BLOCK_BYTES = 1 << 24
HASHED = (".safetensors", ".json", ".jinja")  # suffixes of the files that make a model


def check_same_run(
    found: Mapping, wanted: Mapping, problem: str, remedy: str, remedies: Mapping[str, str] | None = None
) -> None:
    """Compares what an output was made with and what it would be continued with.

    Args:
        found: what it was made with, as read from JSON.
        wanted: the same of the run that is to continue it. A name that is not there counts as None.
        problem: begins the error, such as `OUT holds a run with other settings`; `remedy` ends it.
        remedies: for names, what to do besides if they differ.

    Raises:
        ValueError: naming each value that differs, as it was and as it is; `a.b` is the name b within a.
    """
    different = dict(differences(found, json.loads(json.dumps(wanted))))
    if different:
        special = [f" {text}" for name, text in (remedies or {}).items() if name in different]
        raise ValueError(f"{problem}: {'; '.join(different.values())}. {remedy}{''.join(special)}")


def differences(found: Mapping, wanted: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names whose values differ, with a description of both."""
    for name in {**found, **wanted}:
        was, now = found.get(name), wanted.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from differences(was, now, f"{prefix}{name}.")
        elif was != now:
            yield f"{prefix}{name}", f"{prefix}{name} was {shown(was)} and is {shown(now)}"


def check_same_settings(path: Path, settings: Mapping, remedies: Mapping[str, str] | None = None) -> None:
    """`check_same_run` of the settings of a run and those, in a file of its folder, of the run that it continues."""
    folder = path.parent
    try:
        before = read_json(path)
    except ValueError as error:
        raise ValueError(f"{folder} holds checkpoints of unknown settings ({error}). Give another output.") from error
    remedy = "Continue it with the same ones, or give another output."
    check_same_run(before, settings, f"{folder} holds a run with other settings", remedy, remedies)


def versions(*libraries: str) -> dict[str, str | None]:
    """Versions of vega3d, Python and the libraries named, for the result of a run; None for one not installed."""
    own = sys.modules["vega3d"].__version__  # an import would make the base stand on all that vega3d exports
    found: dict[str, str | None] = {"vega3d": own, "python": sys.version.split()[0]}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal; about a second for each 2 GiB."""
    digest = hashlib.sha256()
    add_file(digest, file)
    return digest.hexdigest()


def checksum(file: Path) -> str:
    """XXH3 of a file, 128 bits in hexadecimal; about a second for each 10 GiB once they are read."""
    digest = xxhash.xxh3_128()
    add_file(digest, file)
    return digest.hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 of the names and contents of all weights and configs in a folder, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in HASHED and file.is_file():
            digest.update(str(file.relative_to(folder)).encode())
            add_file(digest, file)
    return digest.hexdigest()


def add_file(digest: Any, file: Path) -> None:
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            digest.update(block)
