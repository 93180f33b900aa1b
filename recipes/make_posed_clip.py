"""Renders the posed clip that ships with the package, with its boxes and expressions about them.

    python recipes/make_posed_clip.py  # writes src/vega3d/assets/clips/kitchen/

A room of the test split with a number that no benchmark reaches, as `vega3d synthesize` writes one: 17 frames of
192 px in `rooms/`, exact depth [mm] in `arrays/`. Beside them `proposals.json`, the true boxes of all that is seen,
and `expressions.json`, what is said of them and which boxes that means.
"""

import json
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from vega3d.files import write_whole
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import make_walkthroughs
from vega3d.rooms.dataset.files import write_arrays, write_video

CLIP = Path("src/vega3d/assets/clips/kitchen")
ROOM, SETTINGS = 2009, DatasetSettings(split="test", questions_per_type=8)
COLUMNS = ("expression", "kind", "targets")


def main() -> None:
    [made] = make_walkthroughs(ROOM, SETTINGS)
    assert made.clip is not None
    write_whole(CLIP / "rooms" / f"{made.name}.mp4", partial(write_video, frames=made.clip.rgb))
    arrays = CLIP / "arrays" / f"{made.name}.npz"
    write_whole(arrays, partial(write_arrays, scene=made.scene, clip=made.clip, trajectory=made.trajectory))
    write_whole(arrays, partial(pack, arrays=dict(np.load(arrays))))
    [boxes] = [row["boxes"] for row in made.record["proposals"] if row["source"] == "true"]
    write_json(CLIP / "proposals.json", {made.name: boxes})
    rows = [{name: row[name] for name in COLUMNS} for row in made.record["grounding"]]
    write_json(CLIP / "expressions.json", rows)


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
