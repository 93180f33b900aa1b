"""Files of a training run: checkpoints that are whole or not there, and the settings that they belong to."""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vega3d.files import write_json

WHOLE_FILE = "whole.json"
PREFIX = "checkpoint-"


def mark_whole(folder: Path) -> None:
    """Says that all files of a checkpoint are written, and how long they are; the last thing to be written."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != WHOLE_FILE}
    write_json(folder / WHOLE_FILE, sizes)


def is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / WHOLE_FILE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, json.JSONDecodeError):
        return False


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; what a killed process left half is removed."""
    numbered = {
        int(path.name.removeprefix(PREFIX)): path
        for path in folder.glob(f"{PREFIX}*")
        if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    }
    for path in numbered.values():
        if not is_whole(path):
            shutil.rmtree(path)
    whole = [step for step, path in numbered.items() if path.is_dir()]
    return numbered[max(whole)] if whole else None


def check_same_settings(path: Path, settings: Mapping) -> None:
    """Compares the settings of a run with those, in a file, of the run that it would continue.

    Raises:
        ValueError: naming each setting that differs, with both values; if the file cannot be read.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path.parent} holds checkpoints of unknown settings ({error}). Give another output."
        ) from error
    now = json.loads(json.dumps(settings))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing)
        raise ValueError(
            f"{path.parent} holds a run with other settings: {told}. Continue it with the same ones, or give another "
            "output."
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
                while block := opened.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()
