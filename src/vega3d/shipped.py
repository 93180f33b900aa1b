"""Names without paths: the embedded model, the example clips, and where the files of a model lie."""

from importlib.resources import files
from pathlib import Path

EMBEDDED = ("vega3d-tiny",)
ASSETS = Path(str(files("vega3d"))) / "assets"


def example_clip(name: str) -> Path:
    """Path of a shipped clip, such as `room`; raises ValueError if there is none of this name."""
    clips = {path.stem: path for path in sorted((ASSETS / "clips").glob("*.mp4"))}
    if name not in clips:
        raise ValueError(f"There is no example clip {name!r}. Shipped are {', '.join(clips)}.")
    return clips[name]


def posed_clip(name: str) -> Path:
    """Folder of a shipped clip with depth and poses, such as `kitchen`; raises ValueError if there is none."""
    clips = {path.name: path for path in sorted((ASSETS / "clips").iterdir()) if path.is_dir()}
    if name not in clips:
        raise ValueError(f"There is no posed clip {name!r}. Give a folder; shipped are {', '.join(clips)}.")
    return clips[name]


def model_folder(name_or_path: str | Path) -> Path:
    """Local folder of a checkpoint; one on the Hub is downloaded first. Raises ValueError if there is none."""
    name = str(name_or_path)
    if name in EMBEDDED:
        return ASSETS / name
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"{name} is no checkpoint: it has no config.json. Give the folder that was saved.")
        check_regular(Path(name))
        return Path(name)
    remedy = f"Give {EMBEDDED[0]!r}, a folder, or the id of a repository such as 'org/vega3d'."
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"There is no model {name!r}. {remedy}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"The model {name!r} cannot be downloaded: {first_line} {remedy}") from error


def check_regular(folder: Path) -> None:
    """Raises ValueError for a folder or a pipe in the place of a file: loaders take it for one that is not there."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors") and not path.is_file():
            raise ValueError(f"{path} is no regular file. Copy the checkpoint again.")
