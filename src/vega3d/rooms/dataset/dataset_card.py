"""The card of a data set: what it holds, how it was made, how to load it."""

from collections.abc import Sequence

from vega3d.rooms.dataset.dataset_files import SCHEMAS, table_file

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

questions = load_dataset("PATH_OF_THIS_FOLDER", split="{split}")  # or "expressions", "captions", "attributes"
```

A question of `scene_name` NAME is about `rooms/NAME.mp4`; `arrays/NAME.npz` has its geometry: `depth_mm` along the
optical axis [mm], `instance` ids (0: the room itself), `world_from_camera`, `intrinsics` [px], `boxes` and `names` of
instances 1, 2, ..., and `correspondences` (frame, x, y, frame, x, y, instance). A question of the type
`localisation_by_choice` is about four boxes `marks` (left, top, right, bottom [px]), to be drawn on frame `frame`.

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
    """
    Args:
        settings: of the data set.
        statistics: of `dataset_files.write_tables`.
        seeds: of its rooms.
        license_name: of the data, a key of `FURNITURE`.
    """
    split = settings["split"]
    configs = []
    for number, table in enumerate(SCHEMAS):
        default = "  default: true\n" if number == 0 else ""
        path = table_file(split, table)
        configs.append(f"- config_name: {table}\n{default}  data_files:\n  - split: {split}\n    path: {path}")
    rows = [
        f"| {name} | {entry['questions']} | {answers_text(entry)} |"
        for name, entry in statistics["question_types"].items()
    ]
    return CARD.format(
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
