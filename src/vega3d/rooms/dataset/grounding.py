"""Grounding in rooms: what is asked about a walkthrough in 3D, as rows of its record, and read from a data set.

load_grounding("rooms-test", "test")     # expressions, what they mean, and the boxes to choose from
load_clip("rooms-test", "test_000007_00")  # the clip they are about: frames, depth, instances, poses, intrinsics
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vega3d.files import inside
from vega3d.geometry import axis_aligned
from vega3d.rooms.dataset.card import read_frames
from vega3d.rooms.dataset.files import DATASET, is_whole_video, read_geometry, read_rows, row_source
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.questions.proposals import PROPOSALS
from vega3d.rooms.questions.questions import GeometricQuestion, names_in
from vega3d.rooms.questions.referring import ReferringExpression, referring_expressions
from vega3d.rooms.questions.situated import situated_questions, situation
from vega3d.rooms.render import Clip


@dataclass(frozen=True, eq=False)
class GroundingQuestion:
    """An expression about a walkthrough, what it means, and the boxes among which the answer is."""

    id: str
    scene: str  # name of the walkthrough, `load_clip` reads it
    expression: str
    boxes: np.ndarray  # float[M, 6], proposals: centre and size [m], axis-aligned
    targets: np.ndarray  # float[K, 6], true boxes of what is meant; K may be 0
    anchors: np.ndarray  # float[A, 6], true boxes of what is named beside it, in the order of the words; A may be 0
    positives: tuple[int, ...]  # the proposals that are of targets; fewer than K if the detector missed some
    kind: str  # split: unique, multiple (task `one`), zt_wo_d, zt_w_d, st_wo_d, st_w_d, mt (task `any`)
    task: str  # "one" or "any" number of targets
    noun: str  # the class of what is meant, or "object"
    relation: str  # what tells it from others of its noun


def grounding_rows(
    observation: Observation, scene_name: str, seed: Sequence[int], per_type: int
) -> dict[str, list[dict]]:
    """Rows of the tables `grounding`, `situations` and `proposals` of a walkthrough."""
    expressions = referring_expressions(observation, [*seed, 0], per_type)
    questions = situated_questions(observation, [*seed, 1], per_type)
    rows: dict[str, list[dict]] = {
        "grounding": [
            row_source(scene_name, "g", number) | expression_row(expression, observation)
            for number, expression in enumerate(expressions)
        ],
        "situations": [
            row_source(scene_name, "s", number) | situated_row(question, observation)
            for number, question in enumerate(questions)
        ],
        "proposals": [],
    }
    for stream, (source, propose) in enumerate(PROPOSALS.items()):
        boxes, ids = propose(observation, np.random.default_rng([*seed, 2, stream]))
        values = {"source": source, "boxes": boxes.tolist(), "object_ids": ids.tolist()}
        rows["proposals"].append(row_source(scene_name, "p", stream) | values)
    return rows


def expression_row(expression: ReferringExpression, observation: Observation) -> dict:
    targets, anchors = (
        [axis_aligned(observation.by_id[number].box).round(4).tolist() for number in numbers]
        for numbers in (expression.targets, expression.anchors)
    )
    return {
        "task": expression.task,
        "kind": expression.kind,
        "noun": expression.noun,
        "relation": expression.relation,
        "expression": expression.text,
        "object_ids": list(expression.targets),
        "targets": targets,
        "anchors": anchors,
    }


def situated_row(question: GeometricQuestion, observation: Observation) -> dict:
    observer, facing, *_ = names_in(question, observation)
    return {
        "question_type": question.question_type,
        "situation": situation(observer, facing),
        "question": question.question,
        "answer": question.options[question.right],
        "options": list(question.options),
        "object_ids": list(question.object_ids),
    }


def questions_from_rows(
    expressions: Iterable[dict], proposals: Iterable[dict], source: str = "detected"
) -> list[GroundingQuestion]:
    """Questions of rows of the tables `grounding` and `proposals`, with the boxes of a source."""
    boxes = {row["scene_name"]: row for row in proposals if row["source"] == source}
    questions = []
    for row in expressions:
        proposed = boxes[row["scene_name"]]
        positives = [place for place, number in enumerate(proposed["object_ids"]) if number in row["object_ids"]]
        questions.append(
            GroundingQuestion(
                id=row["id"],
                scene=row["scene_name"],
                expression=row["expression"],
                boxes=np.array(proposed["boxes"], float).reshape(-1, 6),
                targets=np.array(row["targets"], float).reshape(-1, 6),
                anchors=np.array(row["anchors"] or [], float).reshape(-1, 6),  # sets of earlier versions have none
                positives=tuple(positives),
                kind=row["kind"],
                task=row["task"],
                noun=row["noun"],
                relation=row["relation"],
            )
        )
    return questions


def load_grounding(folder: str | Path, split: str, source: str = "detected") -> list[GroundingQuestion]:
    """The referring expressions of a data set that `synthesize` made.

    Args:
        folder: the data set.
        split: the split that it was made for.
        source: proposals, `detected` or `true`.

    Raises:
        ValueError: if the source is unknown, or the folder lacks the tables, as one of an earlier version does.
    """
    if source not in PROPOSALS:
        raise ValueError(f"There are no proposals {source!r}. Choose one of {list(PROPOSALS)}.")
    expressions, proposals = (read_rows(Path(folder), split, table) for table in ("grounding", "proposals"))
    missing = {row["scene_name"] for row in expressions} - {
        row["scene_name"] for row in proposals if row["source"] == source
    }
    if missing:
        raise ValueError(f"{folder} has no {source} proposals for {min(missing)}. Make it anew, in another folder.")
    return questions_from_rows(expressions, proposals, source)


def load_clip(folder: str | Path, scene: str) -> Clip:
    """A walkthrough of a data set that was made with videos; depth is rounded to millimetres.

    Raises:
        ValueError: if its video or its arrays are missing or damaged.
    """
    video = inside(Path(folder) / DATASET, f"{scene}.mp4")
    if not is_whole_video(video):
        raise ValueError(f"{video} is missing or damaged. Make the data set again with `vega3d synthesize`.")
    frames = read_frames(video)
    return Clip(frames, *read_geometry(inside(Path(folder) / "arrays", f"{scene}.npz"), frames.shape[:3]))
