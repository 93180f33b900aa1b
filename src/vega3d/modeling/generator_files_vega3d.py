"""The generator's own files: where they are, what a generator alone says of itself, copies, their hash.

A folder of a generator alone holds `transformer/` and `vae/` as diffusers loads them. One that was trained here also
has `prompt.safetensors`, prompt_embeds float[P, text_dim], which takes the place of an empty prompt, and
`generator.json`: frames and size [px] of the clips that it was trained on, and the prompt's length.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .repository_vega3d import download
from .weight_files_vega3d import read_json

PARTIAL_COPY = ".copying-"
PARTS = ("transformer", "vae")
BLOCK_BYTES = 1 << 24
PROMPT_FILE, INFO_FILE = "prompt.safetensors", "generator.json"
EXPORT_AGAIN = "Export the generator again."


def is_generator(folder: Path) -> bool:
    """Whether a folder holds a generator that was trained here, with its prompt."""
    return (folder / INFO_FILE).is_file() and (folder / PROMPT_FILE).is_file()


def read_prompt(folder: Path) -> torch.Tensor:
    """float[P, text_dim]: the `prompt_embeds` of a generator alone; raises ValueError if they cannot be read."""
    path = folder / PROMPT_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no regular file. {EXPORT_AGAIN}")
    try:
        return load_file(path)["prompt_embeds"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}. {EXPORT_AGAIN}") from error


def read_generator_info(folder: Path) -> dict[str, Any]:
    """What `generator.json` says; raises ValueError unless frames, size and prompt length are numbers from 1 up."""
    info = read_json(folder / INFO_FILE)
    for name in ("num_frames", "size", "prompt_length"):
        if type(info.get(name)) is not int or info[name] < 1:
            raise ValueError(
                f"{folder / INFO_FILE}: {name} is {info.get(name)!r:.80}, not a number from 1. {EXPORT_AGAIN}"
            )
    return info


def generator_options(folder: Path) -> dict[str, Any]:
    """Options of `from_backbones` that fit a generator trained here: its prompt, and the frames that it knows."""
    info = read_generator_info(folder)
    return {
        "prompt_embeds": read_prompt(folder),
        "prompt_length": info["prompt_length"],
        "max_area": info["size"] ** 2,
    }


def read_part_config(folder: Path, part: str) -> dict[str, Any]:
    """The config of a part of a generator, without the facts about its file."""
    config = read_json(folder / part / "config.json")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def resolve_files(source: str, checkpoint: str | Path | None, subfolder: str = "", **hub) -> Path:
    """The local folder with the generator's `transformer/` and `vae/`.

    Args:
        source: `generator_config.source`.
        checkpoint: folder or Hub id of the model whose config names the source.
        subfolder: of the checkpoint, that the model lies in.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`; passed on if the checkpoint is on
            the Hub.

    Raises:
        ValueError: if nothing is found there.
    """
    if Path(source).is_absolute():
        return Path(source)
    if checkpoint is not None and Path(checkpoint).is_dir():
        folder = Path(checkpoint) / subfolder
        if (folder / source).is_dir():
            return folder / source
        if "/" not in source:
            raise ValueError(
                f"The generator's files are missing: {folder} has no folder {source!r}. "
                "Copy the checkpoint whole, or assemble it again."
            )
    if "/" in source:
        if Path(source).is_dir():
            return Path(source)
        return fetch(source, [f"{part}/*" for part in PARTS])
    place = f"{subfolder}/{source}" if subfolder else source
    return fetch(str(checkpoint), [f"{place}/{part}/*" for part in PARTS], **hub) / place


def fetch(name: str, patterns: list[str], **hub) -> Path:
    try:
        return download(name, patterns, **hub)
    except ValueError as error:
        raise ValueError(f"The generator's files cannot be downloaded from {name}: {error}") from error


def copy_files(files: Path, target: Path) -> None:
    """Copies `transformer/` and `vae/` file by file; each file appears under its name only when it is whole."""
    for left_over in target.glob(f"{PARTIAL_COPY}*"):  # of a copy that was killed
        shutil.rmtree(left_over)
    for part in PARTS:
        (target / part).mkdir(parents=True, exist_ok=True)
        for file in sorted((files / part).iterdir()):
            copy = target / part / file.name
            if not file.is_file() or (copy.exists() and copy.samefile(file)):
                continue
            with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL_COPY) as folder:  # a name that nobody has
                partial = Path(folder, file.name)
                shutil.copyfile(file, partial)
                partial.replace(copy)


def hash_files(folder: Path) -> str:
    """SHA-256 of all configs and weights of a generator, in hexadecimal; equal weights in other files differ."""
    digest = hashlib.sha256()
    for part in PARTS:
        for file in sorted((folder / part).iterdir()):
            if file.suffix not in (".json", ".safetensors") or not file.is_file():
                continue
            digest.update(f"{part}/{file.name}:{file.stat().st_size}:".encode())
            add_content(digest, file)
    return digest.hexdigest()


def add_content(digest, file: Path) -> None:
    """Adds what a file holds to a digest of hashlib, a piece at a time."""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
