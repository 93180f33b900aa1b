"""A contact sheet of a data set: frames, depth and instances of some walkthroughs, and a question about each."""

from pathlib import Path

import av
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from vega3d.rooms.archives import LARGEST, read_archive

TILE, TITLE, FRAMES = 192, 34, 4  # [px], [px], colour frames of a walkthrough
FARTHEST = 6.0  # [m] that is shown darkest


def instance_colours(ids: np.ndarray) -> np.ndarray:
    """uint8[..., 3]: a colour for each instance id; dark grey for the room itself."""
    palette = (colormaps["tab20"](np.arange(20))[:, :3] * 255).astype(np.uint8)
    return np.where((ids == 0)[..., None], np.uint8(40), palette[ids.astype(np.int64) * 7 % len(palette)])


def depth_colours(depth: np.ndarray) -> np.ndarray:
    """uint8[..., 3] of depth [m]; near is light."""
    scaled = colormaps["magma"](1 - np.clip(depth / FARTHEST, 0, 1))
    return (scaled[..., :3] * 255).astype(np.uint8)


def read_frames(path: Path) -> np.ndarray:
    """uint8[T, H, W, 3]: all frames of a video."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def preview_row(video: Path, arrays: Path, caption: str) -> Image.Image:
    """Colour frames, depth and instances of the middle frame, under a caption."""
    frames = read_frames(video)
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    middle = len(frames) // 2
    shape = frames.shape[:3]
    values = read_archive(
        arrays,
        ("depth_mm", "instance"),
        {"depth_mm": shape, "instance": shape},
        largest=LARGEST,
        remedy="Delete it, and run the same command to make it anew.",
    )
    depth, ids = values["depth_mm"][middle] / 1000, values["instance"][middle]
    tiles = [*frames[chosen], depth_colours(depth), instance_colours(ids)]
    row = Image.new("RGB", (TILE * len(tiles), TITLE + TILE), "white")
    ImageDraw.Draw(row).text((4, 3), caption, fill="black", font=ImageFont.load_default(12), spacing=2)
    for number, tile in enumerate(tiles):
        row.paste(Image.fromarray(tile).resize((TILE, TILE)), (TILE * number, TITLE))
    return row


def draw_preview(folder: Path, records: dict[str, dict], path: Path) -> None:
    """
    Args:
        folder: of a data set with videos.
        records: of some of its walkthroughs, by name.
        path: PNG file to write.
    """
    rows = []
    for number, (name, record) in enumerate(records.items()):
        caption = f"{name}: {record['kind']}"
        if record["questions"]:
            asked = record["questions"][number % len(record["questions"])]
            choices = " / ".join(asked["options"] or ())
            caption += f"\n{asked['question'][:150]} {choices} -> {asked['ground_truth']}"
        rows.append(preview_row(folder / "rooms" / f"{name}.mp4", folder / "arrays" / f"{name}.npz", caption))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    sheet.save(path, format="PNG")
