"""Files of a training run: checkpoints that are whole or not there, and the settings that they belong to."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

WHOLE_FILE = "whole.json"
PREFIX = "checkpoint-"


def write_json(path: Path, values) -> None:
    """Writes a whole file or nothing: under a temporary name, then renamed."""
    partial = path.with_name(f"{path.name}.writing-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
