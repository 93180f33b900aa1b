"""What the package ships: the embedded model and the example clips."""

from importlib.resources import files
from pathlib import Path

EMBEDDED = ("vega3d-tiny",)
ASSETS = Path(str(files("vega3d"))) / "assets"


def example_clip(name: str) -> Path:
    """Path of a shipped clip, such as `room`.

    Raises:
        ValueError: if there is no clip of this name.
    """
    clips = {path.stem: path for path in sorted((ASSETS / "clips").glob("*.mp4"))}
    if name not in clips:
        raise ValueError(f"There is no example clip {name!r}. Shipped are {', '.join(clips)}.")
    return clips[name]
