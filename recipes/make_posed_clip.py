"""Renders the posed clip that ships with the package, with its boxes and expressions about them.

    python recipes/make_posed_clip.py  # writes src/vega3d/assets/clips/kitchen/

A room of the test split with a number that no benchmark reaches, as `vega3d synthesize` writes one: 17 frames of
192 px in `rooms/`, exact depth [mm] in `arrays/`. Beside them `proposals.json`, the true boxes of all that is seen,
and `expressions.json`, sentences and the boxes that they mean.
"""

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vega3d.files import write_whole
from vega3d.geometry import Box, axis_aligned
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import make_walkthroughs
from vega3d.rooms.dataset.files import FPS, write_arrays
from vega3d.video_files import write_video

CLIP = Path("src/vega3d/assets/clips/kitchen")
ROOM, SETTINGS = 2009, DatasetSettings(split="test")
SENTENCES: dict[str, tuple[str, Callable | None]] = {  # the noun, and which one by its distance from the door
    "the chair closest to the door": ("chair", min),
    "the chair farthest from the door": ("chair", max),
    "the barrel": ("barrel", None),
    "the guitar": ("guitar", None),
    "the piano": ("piano", None),  # there is none
}


def main() -> None:
    [made] = make_walkthroughs(ROOM, SETTINGS)
    assert made.clip is not None
    write_whole(CLIP / "rooms" / f"{made.name}.mp4", partial(write_video, frames=made.clip.rgb, fps=FPS))
    arrays = CLIP / "arrays" / f"{made.name}.npz"
    write_whole(arrays, partial(write_arrays, scene=made.scene, clip=made.clip, trajectory=made.trajectory))
    write_whole(arrays, partial(pack, arrays=dict(np.load(arrays))))
    [boxes] = [row["boxes"] for row in made.record["proposals"] if row["source"] == "true"]
    write_json(CLIP / "proposals.json", {made.name: boxes})
    seen = [(row["name"], np.array(row["box"])) for row in made.record["captions"]]
    rows = [{"expression": text, "targets": meant(seen, *sought)} for text, sought in SENTENCES.items()]
    write_json(CLIP / "expressions.json", rows)


def meant(seen: list[tuple[str, np.ndarray]], noun: str, best: Callable | None) -> list[list[float]]:
    """The axis-aligned boxes that a sentence means, of names and boxes float[7] of what is seen."""
    [door] = [box for name, box in seen if name == "door"]
    boxes = [box for name, box in seen if name == noun]
    if best is not None:
        boxes = [best(boxes, key=lambda box: np.linalg.norm(box[:2] - door[:2]))]
    return [axis_aligned(Box(box[:3], box[3:6], box[6])).round(4).tolist() for box in boxes]


def pack(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The arrays as .npz with LZMA, which takes two thirds of the bytes for depth; numpy reads it as any other."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without a time, so that the bytes are the same
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array)


def write_json(path: Path, values: object) -> None:
    lines = json.dumps(values).replace("}, {", "},\n {").replace("], [", "],\n  [")
    write_whole(path, partial(Path.write_text, data=f"{lines}\n"))


if __name__ == "__main__":
    main()
