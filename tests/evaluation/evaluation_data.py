"""Small benchmarks in the published layout, with questions of every type over several scenes."""

import json
import random
from pathlib import Path

from vega3d.evaluation.metrics import CHOICE_TYPES, NUMERIC_TYPES
from vega3d.evaluation.vsibench import AnnotatedQuestion, records_from_rows

BARE_OPTIONS = ("left", "right", "back")
OPTIONS = ["A. left", "B. right", "C. back"]  # as tables hold them


def question_rows(scenes: int = 6, seed: int = 0, prefix: str = "scene") -> list[dict]:
    """One question of each type for each scene, as `test.jsonl` holds them."""
    chance = random.Random(seed)
    rows: list[dict] = []
    for scene in range(scenes):
        for question_type in (*CHOICE_TYPES, *NUMERIC_TYPES):
            choice = question_type in CHOICE_TYPES
            rows.append(
                {
                    "id": len(rows),
                    "dataset": "scannet" if scene % 2 else "arkitscenes",
                    "scene_name": f"{prefix}{scene:04d}",
                    "question_type": question_type,
                    "question": f"What about {question_type} in room {scene}?",
                    "ground_truth": chance.choice("ABC") if choice else str(chance.randint(1, 4)),
                    "options": OPTIONS if choice else None,
                }
            )
    return rows


def question_records(scenes: int = 6, seed: int = 0, prefix: str = "scene") -> list[AnnotatedQuestion]:
    return records_from_rows(question_rows(scenes, seed, prefix), Path("nowhere"))


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def download(folder: Path, rows: list[dict], skip: tuple[str, ...] = ()) -> Path:
    """A folder as VSI-Bench is unpacked; its videos are empty files, which is all that loading looks at."""
    write_jsonl(folder / "test.jsonl", rows)
    for row in rows:
        video = folder / row["dataset"] / f"{row['scene_name']}.mp4"
        video.parent.mkdir(exist_ok=True)
        if row["scene_name"] not in skip:
            video.touch()
    return folder
