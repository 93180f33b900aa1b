"""Files of weights and of names with values: what is read of them is checked first, and lies in its own folder."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import safe_open

INDEX = ".safetensors.index.json"
LONGEST_JSON = 1 << 28  # bytes


def read_json(file: Path) -> dict[str, Any]:
    """The names and values of a JSON file.

    Raises:
        ValueError: if it is not there or no regular file, is no JSON, or holds something else.
    """
    remedy = "Copy it again."
    if not file.is_file():
        raise ValueError(f"{file} is missing, or no regular file. {remedy}")
    if file.stat().st_size > LONGEST_JSON:
        raise ValueError(f"{file} is longer than {LONGEST_JSON} bytes. {remedy}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} cannot be read: it is nested too deeply. {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}. {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}, but must hold names with values. {remedy}")
    return values


def read_index(file: Path) -> dict[str, str]:
    """Which file holds which weight, from the index of a sharded checkpoint.

    Raises:
        ValueError: if it is no index, or names a file outside its own folder.
    """
    index = read_json(file)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(index.get("metadata", {}), dict):
        raise ValueError(f"{file} is no index: it has no weight_map of names to files. Copy it again.")
    for key, name in shards.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{file} says that {key!r} lies in {name!r}, but weights are safetensors files beside their index. "
                "Do not trust these files; get them from their publisher again."
            )
    return shards


def weight_files(folder: Path, stem: str, names: Collection[str], place: Any) -> list[str]:
    """The safetensors files that hold the weights of a model, as transformers and diffusers look for them.

    Args:
        folder: with the index, if there is one.
        stem: `model` or `diffusion_pytorch_model`.
        names: of the regular files that are there, or that can be had.
        place: folder or Hub id, for the error.

    Raises:
        ValueError: if there are none, some of them are missing, or the index names files outside its folder.
    """
    single = f"{stem}.safetensors"
    if single in names:
        return [single]
    if f"{stem}{INDEX}" not in names:
        others = sorted({Path(name).suffix for name in names} & {".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5"})
        found = f", only {' and '.join(others)} files, which are not read" if others else ""
        raise ValueError(f"{place} has no {single}{found}. Give a model with safetensors weights in full precision.")
    shards = sorted(set(read_index(folder / f"{stem}{INDEX}").values()))
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise ValueError(
            f"{place} lacks {len(missing)} of its {len(shards)} files of weights, the first is {missing[0]}. "
            "Copy or download it again."
        )
    return shards


def check_indices(folder: Path) -> None:
    """Raises ValueError if an index of a local folder names files outside it, or what is no regular file.

    That weights are missing is left to the loaders, which know all names that they take.
    """
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        for shard in sorted(set(read_index(index).values())):
            if (folder / shard).exists() and not (folder / shard).is_file():
                raise ValueError(f"{folder / shard} is no regular file, so no weights can be read from it.")


def weight_names(folder: Path, stem: str) -> set[str]:
    """Names of all weights in the files of a local folder, from their headers."""
    names = {file.name for file in folder.iterdir() if file.is_file()}
    keys: set[str] = set()
    for file in weight_files(folder, stem, names, folder):
        with safe_open(folder / file, framework="pt") as weights:
            keys.update(weights.keys())
    return keys
