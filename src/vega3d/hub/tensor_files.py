"""Files of weights, renamed one tensor at a time: of files that are larger than the memory, one tensor is in it.

safetensors' own writer copies all tensors of a file into memory, so files are written here. A pickle is read by a
process of its own, which takes tensors and nothing else.
"""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # bytes, of the header of a safetensors file
COPY_AGAIN = "Copy or download it again."
START = (  # no environment and no working folder decide what the process imports
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from vega3d.hub.tensor_files import unpickle; unpickle(*sys.argv[1:])"
)


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file, which is read when it is asked for."""

    file: Path
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self) -> torch.Tensor:
        with safe_open(self.file, framework="pt") as opened:
            return opened.get_tensor(self.key)


Stored = dict[str, StoredTensor]
Tensors = Mapping[str, StoredTensor | torch.Tensor]


def stored_tensors(files: Iterable[Path]) -> Stored:
    """All tensors of safetensors files, from their headers; raises ValueError for a file that is cut short."""
    found: Stored = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 (not a dict)
                    part = opened.get_slice(key)
                    if key in found:
                        raise ValueError(f"{key} is both in {found[key].file} and in {file}. {COPY_AGAIN}")
                    found[key] = StoredTensor(file, key, dtype_of(part.get_dtype(), file), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}. {COPY_AGAIN}") from error
    return found


def dtype_of(name: str, file: Path) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"{file} holds {name}, but weights must be one of {list(DTYPES)}. Give unquantised ones.")
    return DTYPES[name]


def by_file(tensors: Mapping[str, StoredTensor], files: Iterable[Path]) -> list[Stored]:
    """Tensors as they are spread over files."""
    groups = [{name: tensor for name, tensor in tensors.items() if tensor.file == file} for file in files]
    return [group for group in groups if group]


def value_of(tensor: StoredTensor | torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, torch.Tensor) else tensor.read()


def write_tensors(file: Path, tensors: Tensors) -> None:
    """Writes a safetensors file, one tensor after the other; raises OSError if the disk is full."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + torch.Size(tensor.shape).numel() * tensor.dtype.itemsize
        dtype, shape = DTYPE_NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            opened.write(value_of(tensor).contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_shards(folder: Path, stem: str, shards: Sequence[Tensors]) -> None:
    """Writes one file for each of several sets of weights, named and indexed as transformers and diffusers do."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        write_tensors(folder / f"{stem}.safetensors", shards[0])
        return
    places: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file, tensors)
        places |= dict.fromkeys(tensors, file)
        size += sum(torch.Size(tensor.shape).numel() * tensor.dtype.itemsize for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


# --- Pickles ---------------------------------------------------------------------------------------------------------


def unpickled(file: Path, folder: Path) -> Stored:
    """The tensors of a pickle, once a process of its own has written them to a safetensors file in `folder`.

    Raises ValueError if the pickle holds anything but tensors by name, or cannot be read.
    """
    target = folder / f"{file.stem}.safetensors"
    path = [os.path.abspath(place) for place in sys.path if place]
    command = [sys.executable, "-I", "-c", START, json.dumps(path), str(file), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().rpartition("\n")[2][:300] or f"its reader ended with code {done.returncode}"
        raise ValueError(
            f"{file} is not read: {said} Only pickles of plain tensors are, as other ones can run code. Get it from "
            "its publisher again, or give its weights as safetensors."
        )
    return stored_tensors([target])


def unpickle(source: str, target: str) -> None:
    """What the process does: one pickle to one safetensors file; a single tensor is called `tensor`."""
    try:
        # Mapped, a file that is larger than the memory can be read; the format before torch 1.6 cannot be mapped.
        loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except Exception as error:  # whatever a damaged or foreign pickle raises
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}.")
    tensors = {"tensor": loaded} if isinstance(loaded, torch.Tensor) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        sys.exit(f"it holds {type(loaded).__name__} with more than tensors by name.")
    if not all(tensor.dtype in DTYPE_NAMES for tensor in tensors.values()):
        sys.exit("it holds tensors of a type that safetensors lacks.")
    write_tensors(Path(target), {str(name): tensor.detach() for name, tensor in tensors.items()})
