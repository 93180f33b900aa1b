"""Records from the rows of the `*_llava_style.json` that VEGA-3D and Video-3D-LLM read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vega3d.evaluation.scenes.records import GroundingRecord, SceneRecord, TextRecord
from vega3d.evaluation.scenes.scans import bare_name
from vega3d.evaluation.scenes.sources import Source
from vega3d.evaluation.scenes.tables import GROUNDING_BENCHMARKS, PROMPTS, SET_BENCHMARKS, Prepared

VIDEO = re.compile(r"\s*<image>\s*")


def published_rows(benchmark: str, rows: Sequence[Mapping], path: Path) -> Prepared:
    """The rows of a `*_llava_style.json`; those of one question of ScanQA, which differ in the answer, are one."""
    prepared: dict[str, tuple[str, Mapping, str]] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        check_row(row, place)
        id, answer = str(row["id"]), row["conversations"][1].get("value")
        if benchmark == "scanqa" and "answers" not in row["metadata"]:
            id = f"{id.rpartition('_')[0]}_0"
            _, first, _ = prepared.setdefault(id, (id, {**row, "answers": []}, place))
            first["answers"].append(answer)
        elif id in prepared:
            raise ValueError(f"{place} has the id {id}, which an earlier row has too. Ids must be unique.")
        else:
            prepared[id] = (id, {**row, "answers": row["metadata"].get("answers", [answer])}, place)
    return list(prepared.values())


def check_row(row: Mapping, place: str) -> None:
    """Raises ValueError unless a row names a scan, and has a question and an answer."""
    turns = row.get("conversations")
    whole = isinstance(turns, list) and len(turns) == 2 and all(isinstance(turn, dict) for turn in turns)
    if row.get("id") is None or not isinstance(row.get("metadata"), dict) or not whole or not row.get("video"):
        raise ValueError(f"{place} lacks one of id, video, metadata, or two turns of conversations.")


def published_record(benchmark: str, row: Mapping, id: str, source: Source) -> SceneRecord:
    """The record of a row of a `*_llava_style.json`."""
    scan, metadata = bare_name(row["video"]), row["metadata"]
    prompt = VIDEO.sub("", row["conversations"][0]["value"])
    kind = "question" if benchmark == "scanqa" else metadata.get("question_type")
    common: dict = {"id": id, "kind": kind, "prompt": prompt, **source.place(scan)}
    if benchmark in GROUNDING_BENCHMARKS:
        targets = np.array(row["box"] if benchmark in SET_BENCHMARKS else [row["box"]])
        expression = bare_expression(benchmark, prompt)
        return GroundingRecord(**common, expression=expression, boxes=source.boxes(scan), targets=targets)
    if benchmark == "scan2cap":
        answers = tuple(row.get("annotations", row["answers"]))
        return TextRecord(**common, answers=answers, box=row["box_input"], target=row["gt_box"])
    return TextRecord(**common, answers=tuple(row["answers"]))


def bare_expression(benchmark: str, prompt: str) -> str:
    """The description in a prompt of `PROMPTS`; a prompt of other words as it is."""
    before, after = PROMPTS[benchmark].split("{}")
    if prompt.startswith(before) and prompt.endswith(after):
        return prompt.removeprefix(before).removesuffix(after)
    return prompt
