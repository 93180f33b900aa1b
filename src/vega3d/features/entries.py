"""Entries of a feature cache: files written whole, read with their checksum, evicted by their last use."""

import contextlib
import errno
import json
import os
import re
import stat
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

from vega3d.files import sync

SUFFIX = ".safetensors"
PARTIAL = ".partial"
GROUP = re.compile(r"[0-9a-f]{2}")
NAME = re.compile(r"([0-9a-f]{32})(\.safetensors|\w+\.partial)")
METADATA = "entry"  # the one value of the metadata: safetensors writes several in an order that changes
UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,  # torch opens the file once more, when another process may have removed it; RecursionError is one
)
STALE_SECONDS = 3600  # age at which no process is still writing a partial file


class Entry(NamedTuple):
    path: Path
    size: int  # [bytes]
    used: float  # time of the last use [s]


def write_entry(path: Path, hidden: torch.Tensor, metadata: dict[str, str]) -> int:
    """Writes bf16[t, h, w, C] with its checksum under a temporary name and renames it; returns its size [bytes].

    Raises ValueError if the values are not finite, or the folder cannot be written, or is full.
    """
    bad = hidden.numel() - int(hidden.isfinite().sum())
    if bad:
        raise ValueError(
            f"{bad} of {hidden.numel()} features are NaN or infinite, so they are not kept. Check the weights of the "
            "generator, and load it in float32 or bfloat16."
        )
    entry = json.dumps({**metadata, "checksum": checksum(hidden)}, sort_keys=True)
    return write_bytes(path, save({"hidden": hidden}, metadata={METADATA: entry}))


def write_bytes(path: Path, data: bytes) -> int:
    """Writes an entry whole or not at all; returns its size [bytes]. Raises ValueError as `write_entry`."""
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=PARTIAL, delete=False) as file:
            partial = Path(file.name)
            try:
                file.write(data)
                file.close()
                sync(partial)
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


def read_entry(path: Path, key: str) -> torch.Tensor | None:
    """The hidden states bf16[t, h, w, C] of an entry, or None if it is not there, truncated, changed, or another's.

    An entry of an earlier format is another's: no key of this format leads to it.
    """
    if regular_status(path) is None:  # opening a named pipe would wait for ever
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
            hidden = file.get_tensor("hidden")
            stored = metadata["key"], metadata["checksum"]
    except UNREADABLE:
        return None
    is_of_kind = hidden.dtype == torch.bfloat16 and hidden.ndim == 4
    if not is_of_kind or stored != (key, checksum(hidden)) or not hidden.isfinite().all():
        return None
    with contextlib.suppress(OSError):  # a folder that can only be read keeps no order of use
        os.utime(path)
    return hidden


def checksum(hidden: torch.Tensor) -> str:
    """XXH3 of the shape and the values of hidden states bf16[t, h, w, C]."""
    digest = xxhash.xxh3_128(str(tuple(hidden.shape)).encode())
    digest.update(hidden.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def list_entries(folder: Path) -> list[Entry]:
    """All entries, those used longest ago first; other processes may remove some meanwhile."""
    entries = [Entry(path, status.st_size, status.st_mtime) for path, status in own_files(folder, SUFFIX)]
    return sorted(entries, key=lambda entry: (entry.used, entry.path))


def own_files(folder: Path, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
    """The files that a cache has written, recognised by folder, name and kind; all others are left alone."""
    for group in sorted(folder.iterdir()):
        if not GROUP.fullmatch(group.name) or group.is_symlink() or not group.is_dir():
            continue
        for path in group.iterdir():
            name = NAME.fullmatch(path.name)
            if name is None or not path.name.endswith(suffix) or name[1][:2] != group.name:
                continue
            status = regular_status(path)
            if status is not None:
                yield path, status


def regular_status(path: Path) -> os.stat_result | None:
    """The status of a regular file, or None for a link, a named pipe, a folder, or a file that is not there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def remove_stale(folder: Path) -> int:
    """Removes the partial files of writers that were killed; returns how many. Young ones may be being written."""
    removed = 0
    for path, status in own_files(folder, PARTIAL):
        if time.time() - status.st_mtime >= STALE_SECONDS:
            path.unlink(missing_ok=True)
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
