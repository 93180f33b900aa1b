"""Files of a feature cache: written whole, read with their checksum, evicted by their last use."""

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

SUFFIX = ".safetensors"
PARTIAL = ".partial"
STALE_SECONDS = 3600  # age of a partial file that nobody is writing any more


class Entry(NamedTuple):
    path: Path
    size: int  # [bytes]
    used: float  # time of the last use [s]


def write_entry(path: Path, hidden: torch.Tensor, facts: dict[str, str]) -> int:
    """Writes bf16[t, h, w, C] with its checksum under a temporary name and renames it; returns its size [bytes].

    Raises:
        ValueError: if the folder cannot be written, or is full.
    """
    data = save({"hidden": hidden}, metadata={**facts, "checksum": checksum(hidden)})
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=PARTIAL, delete=False) as file:
            partial = Path(file.name)
            try:
                file.write(data)
                file.close()
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "Free some space, set a smaller max_bytes, or clear the cache."
        else:
            remedy = "Choose a folder that can be written."
        raise ValueError(f"The feature cache {path.parent.parent} takes no more entries: {error}. {remedy}") from error
    return len(data)


def read_entry(path: Path, facts: dict[str, str]) -> torch.Tensor | None:
    """bf16[t, h, w, C], or None if there is no such entry, or it is truncated, changed, or of something else."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            hidden = file.get_tensor("hidden")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        return None
    stored = {**facts, "checksum": checksum(hidden)}
    if hidden.dtype != torch.bfloat16 or hidden.ndim != 4 or any(metadata.get(k) != v for k, v in stored.items()):
        return None
    with contextlib.suppress(OSError):  # a folder that can only be read keeps no order of use
        os.utime(path)
    return hidden


def checksum(hidden: torch.Tensor) -> str:
    """XXH3 of the shape and the values."""
    digest = xxhash.xxh3_128(str(tuple(hidden.shape)).encode())
    digest.update(hidden.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def list_entries(folder: Path) -> list[Entry]:
    """All entries, those used longest ago first; others may remove some meanwhile."""
    entries = []
    for path in files_ending_in(folder, SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            entries.append(Entry(path, status.st_size, status.st_mtime))
    return sorted(entries, key=lambda entry: (entry.used, entry.path))


def files_ending_in(folder: Path, suffix: str) -> Iterator[Path]:
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield from group.glob(f"*{suffix}")


def remove_stale(folder: Path, age: float = STALE_SECONDS) -> int:
    """Removes what writers that were killed left behind; returns how many."""
    removed = 0
    for path in files_ending_in(folder, PARTIAL):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= age:
                path.unlink()
                removed += 1
    return removed


def evict(folder: Path, keep_bytes: int) -> int:
    """Removes the entries used longest ago until no more than `keep_bytes` are left; returns what is left [bytes]."""
    with FileLock(folder / ".evict.lock"):
        remove_stale(folder)
        entries = list_entries(folder)
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= keep_bytes:
                break
            entry.path.unlink(missing_ok=True)
            total -= entry.size
    return total
