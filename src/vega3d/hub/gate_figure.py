"""Pictures of the gate maps over the frames that they belong to."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

COLOURS, OPACITY = "viridis", 0.6


def gate_overlays(frames: np.ndarray, gates: np.ndarray) -> list[np.ndarray]:
    """The first frame of each temporal patch, with the gate over it; colours as in `save_gate_figure`.

    Args:
        frames: uint8[T, H, W, 3].
        gates: float[t, h, w] in (0, 1), t = ceil(T / 2).

    Returns:
        t pictures uint8[H, W, 3].
    """
    height, width = frames.shape[1:3]
    overlays = []
    for frame, gate in zip(frames[::2], gates, strict=True):
        colours = (255 * matplotlib.colormaps[COLOURS](gate)[..., :3]).astype(np.uint8)
        colours = np.array(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST))
        mixed = (1 - OPACITY) * frame + OPACITY * colours
        overlays.append(mixed.round().astype(np.uint8))
    return overlays


def save_gate_figure(path: Path, frames: np.ndarray, gates: np.ndarray, seconds: list[float] | None) -> None:
    """Draws each temporal patch: its first frame, and the gate over it.

    Args:
        path: PNG file; it appears under its name only when it is whole.
        frames: uint8[T, H, W, 3].
        gates: float[t, h, w] in (0, 1), t = ceil(T / 2).
        seconds: time of each frame [s], for the titles.
    """
    columns = min(4, len(gates))
    rows = -(-len(gates) // columns)
    height, width = frames.shape[1:3]
    size = (2.6 * columns + 0.9, 2.6 * rows * height / width + 0.8)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index >= len(gates):
            continue
        axis.imshow(frames[2 * index])
        overlay = axis.imshow(
            gates[index],
            cmap=COLOURS,
            vmin=0,
            vmax=1,
            alpha=OPACITY,
            extent=(0, width, height, 0),
            interpolation="nearest",
        )
        if seconds is not None:
            axis.set_title(f"{seconds[2 * index]:.1f} s", fontsize=8)
    figure.colorbar(overlay, ax=axes, label="gate: 1 keeps the semantic token", shrink=0.9)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png", dpi=110)
    plt.close(figure)
    partial.replace(path)
