"""Files of a training run: checkpoints that are whole or not there, and the settings that they belong to."""

import contextlib
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError

from vega3d.files import read_json, write_json

WHOLE_FILE = "whole.json"
PREFIX = "checkpoint-"
BLOCK_BYTES = 1 << 24
logger = logging.getLogger(__name__)


def mark_whole(folder: Path) -> None:
    """Says that all files of a checkpoint are written, how long they are and what they hold; written last."""
    files = [file for file in sorted(folder.iterdir()) if file.name != WHOLE_FILE and file.is_file()]
    write_json(
        folder / WHOLE_FILE, {file.name: {"bytes": file.stat().st_size, "xxh3": checksum(file)} for file in files}
    )


def checksum(file: Path) -> str:
    """XXH3 of a file, 128 bits in hexadecimal; about a second for each 10 GiB once they are read."""
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def damage(folder: Path, required: Sequence[str] = ()) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole.

    Args:
        folder: of the checkpoint. Its `whole.json` may be an older one, which has the lengths of files alone.
        required: names of files that must be among its own.
    """
    try:
        files = read_json(folder / WHOLE_FILE)
    except ValueError as error:
        return str(error)
    missing = [name for name in required if name not in files]
    if missing:
        return f"it has no {', '.join(missing)}"
    for name, told in files.items():
        wrong = damage_of_file(folder / name, told)
        if wrong is not None:
            return wrong
    return None


def damage_of_file(file: Path, told: Any) -> str | None:
    """What is wrong with a file of which `whole.json` tells the length, or length and checksum."""
    length = told.get("bytes") if isinstance(told, dict) else told
    if not isinstance(length, int):
        return f"{WHOLE_FILE} does not tell the length of {file.name}"
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != length:
        return f"{file.name} has {file.stat().st_size} bytes, but was written with {length}"
    if isinstance(told, dict) and told.get("xxh3") != checksum(file):
        return f"{file.name} was changed after it was written"
    return None


def is_whole(folder: Path) -> bool:
    return damage(folder) is None


def last_whole_checkpoint(folder: Path, required: Sequence[str] = (), others: Sequence[str] = ()) -> Path | None:
    """The newest checkpoint that was written to its end; what a killed process left half is removed.

    Args:
        folder: of the checkpoints.
        required: files without which a run is not continued.
        others: patterns of files that only other programs write.

    Raises:
        ValueError: if a checkpoint is another program's, or is whole without a file that is required.
    """
    numbered = {
        int(path.name.removeprefix(PREFIX)): path
        for path in folder.glob(f"{PREFIX}*")
        if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    }
    for step in sorted(numbered, reverse=True):
        path = numbered[step]
        wrong = damage(path)
        if wrong is None:
            check_required(path, required)
            return path
        foreign = sorted(file.name for pattern in others for file in path.glob(pattern))
        if foreign and not (path / WHOLE_FILE).exists():
            raise ValueError(
                f"{path} holds {foreign[0]}, so it is another program's checkpoint, which cannot be continued from "
                "here. Give another output folder."
            )
        if (path / WHOLE_FILE).exists():
            logger.warning("%s is damaged (%s), so it is removed and an earlier checkpoint is used.", path, wrong)
        shutil.rmtree(path)
    return None


def check_required(folder: Path, required: Sequence[str]) -> None:
    """Raises ValueError if a whole checkpoint has not all that a run needs to go on as before."""
    wrong = damage(folder, required)
    if wrong is not None:
        raise ValueError(
            f"{folder} cannot be continued from: {wrong}. Restore it, or remove {folder} to use an earlier one."
        )


@contextlib.contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Turns what torch and safetensors raise on a full disk into an OSError that names the folder.

    Raises:
        OSError: if a file cannot be written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # torch.save has no type of its own, but other faults have
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"{folder} cannot be written: {reason}. Make room on the disk, or give another output."
        ) from error


def check_same_settings(path: Path, settings: Mapping, remedies: Mapping[str, str] | None = None) -> None:
    """Compares the settings of a run with those, in a file, of the run that it would continue.

    Args:
        path: of the file.
        settings: of the run.
        remedies: for names of settings, what to do if they differ.

    Raises:
        ValueError: naming each setting that differs, with both values; if the file cannot be read.
    """
    try:
        before = read_json(path)
    except ValueError as error:
        raise ValueError(
            f"{path.parent} holds checkpoints of unknown settings ({error}). Give another output."
        ) from error
    now = json.loads(json.dumps(settings))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing)
        special = [f" {remedy}" for name, remedy in (remedies or {}).items() if name in differing]
        raise ValueError(
            f"{path.parent} holds a run with other settings: {told}. Continue it with the same ones, or give another "
            f"output.{''.join(special)}"
        )


def versions(*modules: Any) -> dict[str, str]:
    """Versions of modules and of Python, for the result of a run."""
    return {**{one.__name__: one.__version__ for one in modules}, "python": sys.version.split()[0]}


def hash_folder(folder: Path) -> str:
    """SHA-256 of all weights and configs in a folder, in hexadecimal; about a second for each 2 GiB."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".json", ".jinja") and file.is_file():
            digest.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as opened:
                while block := opened.read(BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()
