"""A published model, in a folder or on the Hub: its small files at once, its large ones when they are asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile


@dataclass(frozen=True)
class Repository:
    """What can be had of a model, before anything large is downloaded.

    Args:
        name: folder or Hub id, as it was given.
        folder: a local one; of a Hub repository it holds the small files, and later the large ones too.
        sizes: bytes of each file that can be had, by its path in the folder.
        is_local: whether the folder is the model itself.
    """

    name: str
    folder: Path
    sizes: dict[str, int]
    is_local: bool

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
    """Finds a model and fetches its small files alone.

    Args:
        name: folder or Hub id.
        kind: what it should be, for the error.
        small: patterns of the files of some kB that say what it is.

    Raises:
        ValueError: if there is none.
    """
    folder = Path(name)
    if folder.is_dir():
        return Repository(str(name), folder, local_sizes(folder), is_local=True)
    if folder.exists() or folder.is_absolute() or str(name).count("/") != 1 or str(name).startswith("."):
        raise ValueError(f"{name} is neither a folder nor a Hub id of {kind}. Give one of them.")
    try:
        folder = download(str(name), small)
    except ValueError as error:
        raise ValueError(f"{name} is neither a folder nor a Hub id of {kind}: {error}") from error
    return Repository(str(name), folder, hub_sizes(str(name), folder), is_local=False)


def download(name: str, patterns: Sequence[str], **hub) -> Path:
    """Local folder of a Hub repository, with the files of these patterns; raises ValueError if that fails."""
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), **hub))
    except Exception as error:  # of the network, too, whose errors have no common class
        raise ValueError(str(error).strip().partition("\n")[0]) from error


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
