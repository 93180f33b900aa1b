"""Files of questions, and the prompts that both kinds of files have in common."""

from collections.abc import Mapping
from pathlib import Path

from vega3d.configs import shown
from vega3d.files import read_json_value

ROOMS_GROUNDING = "rooms-grounding"
GROUNDING_BENCHMARKS = ("scanrefer", "multi3drefer", ROOMS_GROUNDING)
SET_BENCHMARKS = ("multi3drefer",)  # whose expressions may mean no object or several
PROMPTS = {  # as VEGA-3D and Video-3D-LLM put them, and of rooms as a model for grounding does
    "scanrefer": "Identify the object according to the following description.\n{}",
    "multi3drefer": (
        "Identify the object according to the following description.\n{}\nThere may be no corresponding object, or "
        "there may be one or more objects."
    ),
    "scan2cap": "Given an object located at <coord> , describe the object in detail.",
    "scanqa": "{} Answer the question simply.",
    "sqa3d": "{} Answer the question using a single word or phrase.",
    ROOMS_GROUNDING: "Find what is described in this scene: {}",
}

Prepared = list[tuple[str, Mapping, str]]  # id, row, place for errors


def read_table(path: Path) -> list[dict]:
    """The rows of a file of questions, one at least; raises ValueError if it holds something else."""
    remedy = "Download it again."
    values = read_json_value(path, remedy)
    for key in ("questions", "annotations"):  # the two files of SQA3D
        values = values.get(key, values) if isinstance(values, dict) else values
    if not isinstance(values, list) or not values or not all(isinstance(row, dict) for row in values):
        raise ValueError(f"{path} holds {shown(values)}, but must hold a list of questions. {remedy}")
    return values
