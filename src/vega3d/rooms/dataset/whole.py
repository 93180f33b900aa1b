"""Whether a file of a data set is whole, told by its ends: a file cut short, or of no bytes, is made anew."""

import struct
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

HEADER, LONG_HEADER = 8, 16  # bytes of a box of MP4; the second with a size of 64 bits
LONG = 1  # in place of a size


def is_whole_video(path: Path) -> bool:
    """Whether the boxes of an MP4 fill the file, and index and frames are among them."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            place, kinds = 0, set()
            while place < length:
                file.seek(place)
                size, kind = struct.unpack(">I4s", file.read(HEADER))
                header = HEADER
                if size == LONG:
                    size, header = struct.unpack(">Q", file.read(LONG_HEADER - HEADER))[0], LONG_HEADER
                if size < header:
                    return False
                kinds.add(kind)
                place += size
    except (OSError, struct.error):
        return False
    return place == length and {b"moov", b"mdat"} <= kinds


def is_whole_archive(path: Path, names: Collection[str]) -> bool:
    """Whether a .npz, whose table stands at its end, has these arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{name}.npy" for name in names} <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def is_whole_array(path: Path) -> bool:
    """Whether a .npy is as long as its head says."""
    try:
        np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True
