"""The shipped clips and the questions about them, as a folder in VSI-Bench's layout."""

import json
from pathlib import Path

from evaluation.evaluation_data import write_jsonl
from vega3d.shipped import ASSETS, example_clip


def clips_benchmark(folder: Path, clips: tuple[str, ...] = ("room", "study")) -> Path:
    """With one question of each of the ten types of VSI-Bench for each clip."""
    rows = []
    for row in json.loads((ASSETS / "clips" / "questions.json").read_text()):
        if row["marks"] or row["clip"] not in clips:
            continue
        video = folder / "shipped" / f"{row['clip']}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        if not video.exists():
            video.symlink_to(example_clip(row["clip"]))
        options = [f"{letter}. {option}" for letter, option in zip("ABCD", row["options"], strict=False)]
        rows.append(
            {
                "id": len(rows),
                "dataset": "shipped",
                "scene_name": row["clip"],
                "question_type": row["question_type"],
                "question": row["question"],
                "ground_truth": row["answer"],
                "options": options or None,
            }
        )
    write_jsonl(folder / "test.jsonl", rows)
    return folder
