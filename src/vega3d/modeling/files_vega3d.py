"""Files of published models and of generators alone: JSON, weights, repositories, copies, hashes, errors.

What is read of a file is checked first, and lies in its own folder.

A folder of a generator alone holds `transformer/` and `vae/` as diffusers loads them. One that was trained here also
has `prompt.safetensors`, prompt_embeds float[P, text_dim], which takes the place of an empty prompt, and
`generator.json`: frames and size [px] of the clips that it was trained on, and the prompt's length.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

# --- JSON and weights ------------------------------------------------------------------------------------------------


INDEX = ".safetensors.index.json"
LONGEST_JSON = 1 << 28  # bytes


def read_json(file: Path) -> dict[str, Any]:
    """The names and values of a JSON file; raises ValueError if it is no regular file, or holds something else."""
    remedy = "Copy it again."
    if not file.is_file():
        raise ValueError(f"{file} is missing, or no regular file. {remedy}")
    if file.stat().st_size > LONGEST_JSON:
        raise ValueError(f"{file} is longer than {LONGEST_JSON} bytes. {remedy}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{file} cannot be read: {reason}. {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}, but must hold names with values. {remedy}")
    return values


def read_index(file: Path) -> dict[str, str]:
    """Which file holds which weight; raises ValueError for no index, or one that names files outside its folder."""
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

    `stem` is `model` or `diffusion_pytorch_model`, `names` are the regular files that can be had, and `place`
    is for the ValueError if there are no weights, or some are missing.
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


def check_complete(what: Any, missing: Collection[str], remedy: str) -> None:
    """Raises ValueError if a loader missed weights, which it would begin anew."""
    if missing:
        raise ValueError(f"{what} lacks {len(missing)} weights, the first is {min(missing)}. {remedy}")


# --- Repositories ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """What can be had of a model, before anything large is downloaded."""

    name: str  # folder or Hub id, as it was given
    folder: Path  # a local one; of a Hub repository it holds the small files, and later the large ones too
    sizes: dict[str, int]  # bytes of each file that can be had, by its path in the folder
    is_local: bool  # the folder is the model itself

    def names_in(self, part: str) -> list[str]:
        """Names of the files of a subfolder, or of the folder itself (`""`)."""
        prefix = f"{part}/" if part else ""
        inside = [path.removeprefix(prefix) for path in self.sizes if path.startswith(prefix)]
        return [name for name in inside if "/" not in name]

    def bytes_of(self, paths: Iterable[str], missing: bool = False) -> int:
        """Bytes of some files; with `missing=True` of those alone that are not on this machine."""
        return sum(self.sizes[path] for path in paths if not (missing and (self.folder / path).is_file()))

    def fetch(self, paths: Sequence[str]) -> Path:
        """The local folder, once the files are there."""
        return self.folder if self.is_local else download(self.name, paths)


def open_repository(name: str | Path, kind: str, small: Sequence[str]) -> Repository:
    """Finds a model, by folder or Hub id, and fetches the files of the patterns `small` alone, which say what it is.

    Raises ValueError, which names the `kind` it should be, if there is none.
    """
    folder = Path(name)
    if folder.is_dir():
        return Repository(str(name), folder, local_sizes(folder), is_local=True)
    if folder.exists() or folder.is_absolute() or str(name).count("/") != 1 or str(name).startswith("."):
        raise ValueError(f"{name} is neither a folder nor a Hub id of {kind}. Give one of them.")
    folder = download(str(name), small, f"{name} is neither a folder nor a Hub id of {kind}: ")
    return Repository(str(name), folder, hub_sizes(str(name), folder), is_local=False)


def download(name: str, patterns: Sequence[str], failure: str = "", **hub) -> Path:
    """Local folder of a Hub repository, with the files of these patterns.

    Raises ValueError, with `failure` before the reason, if that fails.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), **hub))
    except Exception as error:  # of the network, too, whose errors have no common class
        raise ValueError(failure + str(error).strip().partition("\n")[0]) from error


def hub_sizes(name: str, folder: Path) -> dict[str, int]:
    """Bytes of each file on the Hub; of those in the cache, if the Hub cannot be asked."""
    try:
        tree = HfApi().list_repo_tree(name, recursive=True, revision=folder.name)
        return {file.path: file.size for file in tree if isinstance(file, RepoFile)}
    except Exception:  # as above: what is in the cache is all that can be had then
        return local_sizes(folder)


def local_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the regular files in a folder and in its subfolders; deeper ones belong to no published layout."""
    files = [file for pattern in ("*", "*/*") for file in folder.glob(pattern) if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(files)}


# --- Generators ------------------------------------------------------------------------------------------------------


PARTIAL_COPY = ".copying-"
PARTS = ("transformer", "vae")
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
    """Options of `from_backbones` that fit a generator trained here: its prompt."""
    return {"prompt_embeds": read_prompt(folder), "prompt_length": read_generator_info(folder)["prompt_length"]}


def read_part_config(folder: Path, part: str) -> dict[str, Any]:
    """The config of a part of a generator, without the facts about its file."""
    config = read_json(folder / part / "config.json")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def resolve_files(source: str, checkpoint: str | Path | None, subfolder: str = "", **hub) -> Path:
    """The local folder with the generator's `transformer/` and `vae/`, that `generator_config.source` names.

    `checkpoint` is the folder or Hub id of the model of this config, which lies in its `subfolder`; `hub` are
    `revision`, `cache_dir`, `token` and so on. Raises ValueError if nothing is found.
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
    failure = "The generator's files cannot be downloaded from"
    if "/" in source:
        if Path(source).is_dir():
            return Path(source)
        return download(source, [f"{part}/*" for part in PARTS], f"{failure} {source}: ")
    place = f"{subfolder}/{source}" if subfolder else source
    patterns = [f"{place}/{part}/*" for part in PARTS]
    return download(str(checkpoint), patterns, f"{failure} {checkpoint}: ", **hub) / place


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
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)  # type: ignore[arg-type]  # goes on with this one
    return digest.hexdigest()


# --- Errors ----------------------------------------------------------------------------------------------------------


COPY_AGAIN = "Copy the checkpoint again, or assemble it anew."


@contextlib.contextmanager
def value_errors(what: str, remedy: str = COPY_AGAIN) -> Iterator[None]:
    """Whatever a library raises about files of the wrong kind is a ValueError that names them.

    OSError stays, as transformers documents it; so does what is wrong with the machine and not with the files.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be read: {type(error).__name__}: {error}. {remedy}") from error
