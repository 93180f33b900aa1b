"""Pictures as small WebP files, which lose nothing but colours."""

from io import BytesIO
from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image


def save_palette(picture: Image.Image | Figure, path: Path) -> None:
    """Writes a picture, or a figure that it closes, in 256 colours: a quarter of a PNG file with all of them."""
    if isinstance(picture, Figure):
        drawn = BytesIO()
        picture.savefig(drawn, format="png", dpi=110)
        pyplot.close(picture)
        picture = Image.open(drawn)
    palette = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)  # not seen
    palette.convert("RGB").save(path, format="webp", lossless=True, quality=100, method=6)
