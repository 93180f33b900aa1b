"""Reading .npz files that may be damaged, or made to do harm: what one claims is looked at before it is read."""

import io
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from vega3d.files import check_input, read_xz

SUFFIX = ".npy"
LARGEST = 1 << 31  # bytes, of what is read of a walkthrough's arrays
Shape = tuple[int | None, ...]  # None stands for any length
NUMBERS, KINDS = "iuf", "biufU"  # of numpy's types
FAULTS = (
    OSError,
    KeyError,
    ValueError,
    EOFError,
    TypeError,
    OverflowError,
    MemoryError,
    RuntimeError,  # of encrypted archives, and of compression that Python lacks
    zipfile.BadZipFile,
    zlib.error,
)


def read_archive(
    path: Path,
    names: Collection[str] | None = None,
    shapes: Mapping[str, Shape] | None = None,
    *,
    largest: int,
    remedy: str,
) -> dict[str, np.ndarray]:
    """The arrays of a .npz, or of one in xz (`.npz.xz`), by their names.

    Args:
        path: the file, which need not be trusted.
        names: arrays that are read and must be there; all that it has if None.
        shapes: shapes that arrays must have; looked at before anything of the array is read.
        largest: bytes that all arrays together may have.
        remedy: ends the error.

    Raises:
        ValueError: if it is no archive of plain arrays, is damaged, lacks one of them, or holds more than it may.
    """
    try:
        file = io.BytesIO(read_xz(path, largest)) if path.suffix == ".xz" else check_input(path)
        with zipfile.ZipFile(file) as archive:
            held = [name.removesuffix(SUFFIX) for name in archive.namelist() if name.endswith(SUFFIX)]
            missing = sorted(set(names or ()) - set(held))
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
            wanted = held if names is None else list(names)
            sizes = [archive.getinfo(f"{name}{SUFFIX}").file_size for name in wanted]
            if sum(sizes) > largest:
                raise ValueError(f"its arrays have {sum(sizes):,} bytes, but at most {largest:,} are read")
            return {
                name: read_member(archive, name, size, (shapes or {}).get(name))
                for name, size in zip(wanted, sizes, strict=True)
            }
    except FAULTS as error:
        reason = str(error).removesuffix(".")
        raise ValueError(f"{path} cannot be read: {reason}. {remedy}".rstrip()) from error


def read_member(archive: zipfile.ZipFile, name: str, size: int, shape: Shape | None) -> np.ndarray:
    with archive.open(f"{name}{SUFFIX}") as file:
        found, dtype = array_header(file)
        claimed = math.prod(found) * dtype.itemsize
        if claimed > size:
            raise ValueError(f"{name} claims {claimed:,} bytes, but has {size:,}")
        fits = shape is None or (
            len(found) == len(shape) and all(wanted in (None, n) for n, wanted in zip(found, shape, strict=True))
        )
        if not fits or dtype.kind not in (KINDS if shape is None else NUMBERS):
            wanted = "or text" if shape is None else str(["n" if n is None else n for n in shape])
            raise ValueError(f"{name} is {dtype}{list(found)}, but must be numbers {wanted}")
    with archive.open(f"{name}{SUFFIX}") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of shape {list(shape)} cannot be")
    return shape, dtype
