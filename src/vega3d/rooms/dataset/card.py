"""What a data set is shown by: its card, which says what it holds and how to load it, and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vega3d.extras import optional_module
from vega3d.rooms.archives import LARGEST, read_archive
from vega3d.rooms.dataset.files import TABLES, table_file

TILE, TITLE, FRAMES = 192, 34, 4  # [px], [px], colour frames of a walkthrough
FARTHEST = 6.0  # [m] that is shown darkest
CARD = """---
license: {license}
language:
- en
task_categories:
- visual-question-answering
tags:
- spatial-reasoning
- synthetic
- 3d
- video
configs:
{configs}
---

# Rooms: {split}

{walkthroughs} camera trajectories of {num_frames} frames ({size}x{size} px) through {rooms} furnished rooms, made by
`vega3d.rooms`, with exact depth, poses, instance masks and boxes, and questions whose answers are computed from
the geometry. Columns, wording and answer formats of the questions are those of VSI-Bench (Yang et al., 2024).

```bash
{command}
```

```python
from datasets import load_dataset

questions = load_dataset("PATH_OF_THIS_FOLDER", split="{split}")  # or {others}
```

A question of `scene_name` NAME is about `rooms/NAME.mp4`; `arrays/NAME.npz` has its geometry: `depth_mm` along the
optical axis [mm], `instance` ids (0: the room itself), `world_from_camera`, `intrinsics` [px], `boxes` and `names` of
instances 1, 2, ..., and `correspondences` (frame, x, y, frame, x, y, instance). A question of the type
`localisation_by_choice` is about four boxes `marks` (left, top, right, bottom [px]), to be drawn on frame `frame`.

Grounding, in world coordinates [m]: rows of `grounding` mean none, one or several objects (`targets`, boxes of centre
and size), among the boxes of `proposals` (`true`, or `detected` with a detector's errors); `situations` has questions
of somebody in the room.

## Questions

| type | questions | answers |
|---|---|---|
{types}

Rooms by kind: {kinds}. Tables: {tables}.

An object counts as seen if it fills 0.4 % of the pixels of some frame; "the chair" is the only chair of the room.
Where geometry leaves a doubt, nothing is asked. Questions of multiple choice are left out at random so that the words
alone do not tell the answer. Everything follows from the seeds {seeds}; other splits have others.

## Licence

The renderings and all tables were made by `vega3d` (Apache-2.0). {furniture}
"""

FURNITURE = {
    "apache-2.0": "The furniture models are in the public domain (CC0).",
    "cc-by-3.0": (
        "The furniture models are licensed under CC BY 3.0; name their creators, who are listed in the attribution "
        "file of the pack that was given as `--furniture`."
    ),
}


def dataset_card(settings: dict, statistics: dict, seeds: Sequence[int], license_name: str) -> str:
    """The text of a data set's README.md, from its `settings.json`, the `statistics` of `write_tables`, and its seeds.

    The seeds ascend; the licence is the one of the furniture's pack, a key of `FURNITURE`.
    """
    split = settings["split"]
    configs = []
    for number, table in enumerate(TABLES):
        default = "  default: true\n" if number == 0 else ""
        path = table_file(split, table)
        configs.append(f"- config_name: {table}\n{default}  data_files:\n  - split: {split}\n    path: {path}")
    rows = [
        f"| {name} | {entry['questions']} | {answers_text(entry)} |"
        for name, entry in statistics["question_types"].items()
    ]
    return CARD.format(
        others=", ".join(f'"{table}"' for table in list(TABLES)[1:]),
        license=license_name,
        configs="\n".join(configs),
        command=making_command(settings, statistics["rooms"]),
        types="\n".join(rows),
        kinds=", ".join(f"{name} {count}" for name, count in statistics["kinds"].items()),
        tables=", ".join(f"{name} {count}" for name, count in statistics["rows"].items()),
        seeds=f"{seeds[0]} to {seeds[-1]}",
        furniture=FURNITURE[license_name],
        walkthroughs=statistics["walkthroughs"],
        rooms=statistics["rooms"],
        **{name: settings[name] for name in ("split", "size", "num_frames")},
    )


def making_command(settings: dict, rooms: int) -> str:
    """The command that makes the data set again."""
    options = {
        "split": settings["split"],
        "scenes": rooms,
        "trajectories": settings["walks"],
        "size": settings["size"],
        "num-frames": settings["num_frames"],
        "questions-per-type": settings["questions_per_type"],
    }
    unseen = " --furniture PACK.npz" if settings["split"] == "test_unseen" else ""
    videos = "" if settings["videos"] else " --no-videos"
    return f"vega3d synthesize OUT {' '.join(f'--{name} {value}' for name, value in options.items())}{unseen}{videos}"


def answers_text(entry: dict) -> str:
    """The answers of a type and how often each is right, or the range of numbers."""
    counts = entry.get("answers", entry["ground_truth"])
    if not all(name.replace(".", "").isdigit() for name in counts):
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    values = sorted(counts, key=float)
    return f"{values[0]} to {values[-1]}, most often {max(counts, key=counts.__getitem__)}"


def instance_colours(ids: np.ndarray) -> np.ndarray:
    """uint8[..., 3]: a colour for each instance id; dark grey for the room itself."""
    palette = (optional_module("matplotlib").colormaps["tab20"](np.arange(20))[:, :3] * 255).astype(np.uint8)
    return np.where((ids == 0)[..., None], np.uint8(40), palette[ids.astype(np.int64) * 7 % len(palette)])


def depth_colours(depth: np.ndarray) -> np.ndarray:
    """uint8[..., 3] of depth [m]; near is light."""
    scaled = optional_module("matplotlib").colormaps["magma"](1 - np.clip(depth / FARTHEST, 0, 1))
    return (scaled[..., :3] * 255).astype(np.uint8)


def read_frames(path: Path) -> np.ndarray:
    """uint8[T, H, W, 3]: all frames of a video."""
    import av

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
    """Writes a contact sheet as PNG: a row for each record by name of a data set with videos, with one question."""
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
