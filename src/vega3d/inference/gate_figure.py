"""Pictures of the gate maps over the frames that they belong to.

Gates of one clip often differ by little, so the colours span the clip's own range, and the legend names its ends. The
frame under them is grey, so that each colour is the gate's and each edge the picture's.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from vega3d.extras import optional_module
from vega3d.files import whole_file

COLOURS, OPACITY = "viridis", 0.5
SOFTWARE = "vega3d gate maps"  # stands in the file, by which a picture of an earlier run is known
SHORTEST_SCALE = 0.02  # a flat map stays flat: rounding is not stretched to all colours
LEGEND = "gate: low takes in the most from the world simulator, high keeps the VLM's own token"


def gate_scale(gates: np.ndarray) -> tuple[float, float]:
    """The gates at the ends of the colours: the lowest and the highest of the clip, `SHORTEST_SCALE` apart or more."""
    low, high = float(np.min(gates)), float(np.max(gates))
    if not np.isfinite([low, high]).all():
        raise ValueError(
            "The gates hold values that are no numbers (NaN or infinity): the model's weights are broken."
        )
    if high - low >= SHORTEST_SCALE:
        return low, high
    start = min(max((low + high - SHORTEST_SCALE) / 2, 0.0), 1.0 - SHORTEST_SCALE)
    return start, start + SHORTEST_SCALE


def gate_overlays(frames: np.ndarray, gates: np.ndarray, ends: tuple[float, float] | None = None) -> list[np.ndarray]:
    """The first frame of each temporal patch in grey, with the gate over it in the colours of `gate_scale`.

    Args:
        frames: uint8[T, H, W, 3].
        gates: float[t, h, w] in (0, 1), t = ceil(T / 2).
        ends: gates at the ends of the colours, by default those of `gate_scale`.

    Returns:
        t pictures uint8[H, W, 3].
    """
    height, width = frames.shape[1:3]
    scale = optional_module("matplotlib.colors").Normalize(*(ends or gate_scale(gates)))
    colour_map = optional_module("matplotlib").colormaps[COLOURS]
    overlays = []
    for frame, gate in zip(frames[::2], gates, strict=True):
        colours = (255 * colour_map(scale(gate))[..., :3]).astype(np.uint8)
        colours = np.array(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST))
        grey = np.array(Image.fromarray(frame).convert("L"))[..., None]
        overlays.append(((1 - OPACITY) * grey + OPACITY * colours).round().astype(np.uint8))
    return overlays


def save_gate_figure(path: Path, frames: np.ndarray, gates: np.ndarray, seconds: list[float] | None) -> None:
    """Writes a PNG of the pictures of `gate_overlays`, with a legend; `seconds` are the times of the frames [s]."""
    pictures = gate_overlays(frames, gates)
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = frames.shape[1:3]
    # A clip of one or two pictures is still as wide as its legend.
    size = (max(2.6 * columns, 6) + 0.2, 2.6 * rows * height / width + 1)
    figure = optional_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index < len(pictures):
            axis.imshow(pictures[index])
            if seconds is not None:
                axis.set_title(f"{seconds[2 * index]:.1f} s", fontsize=8)
    low, high = gate_scale(gates)
    scale = optional_module("matplotlib.colors").Normalize(low, high)
    colours = optional_module("matplotlib.cm").ScalarMappable(scale, COLOURS)
    bar = figure.colorbar(colours, ax=axes, location="bottom", shrink=0.9, aspect=40)
    ticks = np.linspace(low, high, 5).tolist()
    bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
    bar.set_label(LEGEND, fontsize=9)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": SOFTWARE})
