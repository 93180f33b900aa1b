"""The generator's own files: where they are, copies of them, their hash."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from .repository_vega3d import download

PARTIAL_COPY = ".copying-"
PARTS = ("transformer", "vae")
BLOCK_BYTES = 1 << 24


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
