"""Figures as small PNG files."""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image


def save_palette(figure: Figure, path: Path) -> None:
    """Writes a figure in 256 colours, a third of the size, and closes it."""
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    palette = Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(path, format="png", optimize=True)
