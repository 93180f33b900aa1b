"""Pictures of a run: grids of frames, and curves."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vega3d.files import write_whole

COLUMNS, GAP = 6, 2  # frames of a video that are shown; [px]


def grid_of_videos(videos: np.ndarray, columns: int = COLUMNS) -> Image.Image:
    """
    Args:
        videos: uint8[N, T, H, W, 3].
        columns: frames shown of each, evenly spaced.

    Returns:
        A row for each video; still pictures fill rows of their own.
    """
    if videos.shape[1] == 1:
        return grid_of_pictures(videos[:, 0], columns)
    chosen = np.linspace(0, videos.shape[1] - 1, min(columns, videos.shape[1])).round().astype(int)
    return grid_of_pictures(videos[:, chosen].reshape(-1, *videos.shape[2:]), len(chosen))


def grid_of_pictures(pictures: np.ndarray, columns: int) -> Image.Image:
    """uint8[N, H, W, 3], row by row."""
    height, width = pictures.shape[1:3]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(picture), (column * (width + GAP), row * (height + GAP)))
    return sheet


def save_picture(path: Path, picture: Image.Image) -> None:
    write_whole(path, partial(picture.save, format="PNG"))


def save_curves(path: Path, log: Sequence[dict], panels: dict[str, dict[str, str]]) -> None:
    """Writes a PNG.

    Args:
        path: of the picture.
        log: entries with a `step`.
        panels: title -> name in the log -> label.
    """
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axes, (title, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for name, label in lines.items():
            points = [(entry["step"], entry[name]) for entry in log if entry.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(fontsize="small")
    write_whole(path, partial(figure.savefig, format="png", dpi=120))


def as_uint8(pixels) -> np.ndarray:
    """float[B, 3, T, H, W] in [-1, 1] -> uint8[B, T, H, W, 3]"""
    shown = pixels.float().clamp(-1, 1).add(1).mul(127.5).round()
    return shown.permute(0, 2, 3, 4, 1).byte().cpu().numpy()
