"""Records from the five benchmarks' own files."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vega3d.evaluation.scenes.records import GroundingRecord, SceneRecord, TextRecord
from vega3d.evaluation.scenes.sources import Source
from vega3d.evaluation.scenes.tables import PROMPTS, Prepared, read_table
from vega3d.files import check_input

LABELS = "scannetv2-labels.combined.tsv"
OTHER_OBJECT = 39  # NYU40's class of what is none of the others
NAMED_CLASSES = frozenset((*range(1, 13), 14, 16, 24, 28, 33, 34, 36, OTHER_OBJECT))  # of NYU40, that ScanRefer counts
FIRST_WORDS = ("what", "is", "how", "can", "which")  # of SQA3D's questions; others are `others`
SCANREFER_COLUMNS = ("scene_id", "object_id", "object_name", "description")
MULTI3DREFER_COLUMNS = ("scene_id", "object_ids", "eval_type", "description")
SQA3D_QUESTIONS, SQA3D_ANSWERS = "_questions_", "_sqa_annotations_"  # in the names of the two files


class OwnFile(NamedTuple):
    """How the rows of a benchmark's own file become records."""

    columns: tuple[str, ...]  # that each row has
    record: Callable[[Mapping, str, Source], SceneRecord]  # row, id, source -> record


def own_grounding(benchmark: str, row: Mapping, id: str, source: Source) -> SceneRecord:
    scan, expression = row["scene_id"], row["description"].capitalize()
    numbers = row["object_ids"] if "object_ids" in row else [row["object_id"]]
    return GroundingRecord(
        id=id,
        kind=row["eval_type"],
        prompt=PROMPTS[benchmark].format(expression),
        expression=expression,
        boxes=source.boxes(scan),
        targets=np.array([source.object_box(scan, number) for number in numbers]),
        **source.place(scan),
    )


def own_scan2cap(row: Mapping, id: str, source: Source) -> SceneRecord:
    scan = row["scene_id"]
    target = source.object_box(scan, row["object_id"])
    return TextRecord(
        id=id,
        kind=row["eval_type"],
        prompt=PROMPTS["scan2cap"],
        answers=tuple(row["descriptions"]),
        box=source.nearest(scan, target),
        target=target,
        **source.place(scan),
    )


def own_scanqa(row: Mapping, id: str, source: Source) -> SceneRecord:
    prompt = PROMPTS["scanqa"].format(row["question"])
    answers = tuple(row["answers"])
    return TextRecord(id=id, kind="question", prompt=prompt, answers=answers, **source.place(row["scene_id"]))


def own_sqa3d(row: Mapping, id: str, source: Source) -> SceneRecord:
    return TextRecord(
        id=id,
        kind=kind_of_question(row["question"]),
        prompt=PROMPTS["sqa3d"].format(f"{row['situation']} {row['question']}"),
        situation=row["situation"],
        answers=tuple(answer["answer"] for answer in row["answers"]),
        **source.place(row["scene_id"]),
    )


def kind_of_question(question: str) -> str:
    """SQA3D's type of a question, by what it begins with."""
    begin = question.lstrip().lower()
    return next((word for word in FIRST_WORDS if begin.startswith(word)), "others")


OWN = {
    "scanrefer": OwnFile(SCANREFER_COLUMNS, partial(own_grounding, "scanrefer")),
    "multi3drefer": OwnFile(MULTI3DREFER_COLUMNS, partial(own_grounding, "multi3drefer")),
    "scan2cap": OwnFile(SCANREFER_COLUMNS, own_scan2cap),
    "scanqa": OwnFile(("scene_id", "question_id", "question", "answers"), own_scanqa),
    "sqa3d": OwnFile(("scene_id", "question_id", "question", "situation"), own_sqa3d),
}


def own_rows(benchmark: str, rows: Sequence[Mapping], path: Path) -> Prepared:
    """The rows that become a record each, with their ids; raises ValueError if a row lacks a column."""
    for number, row in enumerate(rows, start=1):
        columns = OWN[benchmark].columns
        absent = [name for name in columns if row.get(name) is None]
        if absent:
            raise ValueError(
                f"{path}, row {number}, lacks {', '.join(absent)}. A row of {benchmark} has {', '.join(columns)}, or "
                "`conversations` of a *_llava_style.json."
            )
    places = [f"{path}, row {number}" for number in range(1, len(rows) + 1)]
    if benchmark == "scanqa":
        return [(f"{row['question_id']}_0", row, place) for row, place in zip(rows, places, strict=True)]
    if benchmark == "sqa3d":
        return with_answers(rows, path)
    if benchmark in ("scanrefer", "scan2cap"):
        rows = with_kinds(rows, path)
    numbered = [(str(place), row, name) for place, (row, name) in enumerate(zip(rows, places, strict=True))]
    return by_object(numbered) if benchmark == "scan2cap" else numbered


def with_answers(rows: Sequence[Mapping], path: Path) -> Prepared:
    """SQA3D's questions with the answers of the file beside theirs, in the order of the answers, as published rows."""
    other = path.with_name(path.name.replace(SQA3D_QUESTIONS, SQA3D_ANSWERS))
    if other == path or not other.is_file():
        raise ValueError(f"{path} has no answers beside it: there is no {other.name}. Put both files into one folder.")
    questions = {row["question_id"]: row for row in rows}
    prepared: Prepared = []
    for number, answer in enumerate(read_table(other), start=1):
        place, id = f"{other}, row {number}", answer.get("question_id")
        if id not in questions or not answer.get("answers"):
            raise ValueError(f"{place} answers question {id}, which is not in {path.name}, or not at all.")
        prepared.append((str(id), {**questions[id], "answers": answer["answers"]}, place))
    return prepared


def with_kinds(rows: Sequence[Mapping], path: Path) -> list[Mapping]:
    """ScanRefer's rows with their `eval_type`: unique if their scene has one object of their class, else multiple.

    Classes are NYU40's by the scan's own table of labels; objects count that the file names. Rows that have an
    `eval_type` already keep it.
    """
    if all(row.get("eval_type") for row in rows):
        return list(rows)
    classes = read_classes(path.with_name(LABELS), path)
    found = [classes.get(row["object_name"].replace("_", " "), OTHER_OBJECT) for row in rows]
    objects = {
        (row["scene_id"], row["object_id"]): kind for row, kind in reversed(list(zip(rows, found, strict=True)))
    }
    counts = Counter((scan, kind) for (scan, _), kind in objects.items())
    return [
        {**row, "eval_type": "unique" if counts[row["scene_id"], kind] == 1 else "multiple"}
        for row, kind in zip(rows, found, strict=True)
    ]


def read_classes(path: Path, table: Path) -> dict[str, int]:
    """NYU40's class of each name of an object, `OTHER_OBJECT` for those that ScanRefer does not count."""
    if not path.is_file():
        raise ValueError(
            f"{table} does not say which objects are the only ones of their class. Put ScanNet's {LABELS} beside it, "
            "or use rows of a *_llava_style.json."
        )
    lines = check_input(path).read_text(encoding="utf-8").splitlines()
    try:
        classes = {row["raw_category"]: int(row["nyu40id"]) for row in csv.DictReader(lines, delimiter="\t")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has no columns raw_category and nyu40id: {error!r}. Download it again.") from error
    return {name: number if number in NAMED_CLASSES else OTHER_OBJECT for name, number in classes.items()}


def by_object(numbered: Prepared) -> Prepared:
    """One row for each object, the first, with the descriptions of all, as Scan2Cap compares them."""
    objects: dict[tuple, tuple[str, Mapping, str]] = {}
    for id, row, place in numbered:
        key = row["scene_id"], row["object_id"], row["object_name"]
        _, first, _ = objects.setdefault(key, (id, {**row, "descriptions": []}, place))
        first["descriptions"].append(row["description"])
    return list(objects.values())
