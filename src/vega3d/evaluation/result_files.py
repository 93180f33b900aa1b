"""Result files of `run.evaluate`: read and checked, for what is scored from them must be what was answered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vega3d.evaluation.bootstrap import check_score, questions_by_id
from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.files import read_json

FORMAT = "vega3d-evaluation-1"
SCORINGS = ("official", "lmms_eval", "likelihood")
REMEDY = "Make it anew with `vega3d evaluate --output`."
TEXTS = ("id", "dataset", "scene", "question_type")  # of each question


def read_result(path: str | Path) -> dict:
    """A result file of `run.evaluate`.

    Raises:
        ValueError: if there is none at this path, or it holds what no evaluation gives.
    """
    if not Path(path).exists() and not Path(path).is_symlink():
        raise ValueError(f"There is no result file {path}. Make it with `vega3d evaluate --output`.")
    result = read_json(path, REMEDY)
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {result.get('format')!r:.80}, but must be a result file, {FORMAT!r}.")
    for name, kind in (("benchmark", str), ("questions_sha256", str), ("settings", dict), ("summary", dict)):
        if not isinstance(result.get(name), kind):
            raise ValueError(f"{path} has the {name} {result.get(name)!r:.80}, which is no {kind.__name__}. {REMEDY}")
    official = result["summary"].get("official")
    if not isinstance(official, dict) or not isinstance(official.get("figures"), dict):
        raise ValueError(f"{path} has the summary {result['summary']!r:.80}, without official figures. {REMEDY}")
    questions = result.get("questions")
    if not isinstance(questions, list):
        raise ValueError(f"{path} has the questions {questions!r:.80}, which are no list. {REMEDY}")
    for number, question in enumerate(questions, start=1):
        check_question(question, f"{path}, question {number},")
    questions_by_id(str(path), result)
    return result


def check_question(question: Any, place: str) -> None:
    """Raises ValueError unless it names a scene and a type, and its scores are numbers in [0, 1], or None."""
    if not isinstance(question, dict):
        raise ValueError(f"{place} is {question!r:.80}, but must hold names with values. {REMEDY}")
    bad = [name for name in TEXTS if not isinstance(question.get(name), str)]
    if bad or question["question_type"] not in QUESTION_TYPES:
        name = bad[0] if bad else "question_type"
        raise ValueError(f"{place} has the {name} {question.get(name)!r:.80}, which no question has. {REMEDY}")
    scores = question.get("scores")
    if not isinstance(scores, dict) or not set(SCORINGS) <= scores.keys():
        raise ValueError(f"{place} has the scores {scores!r:.80}, but must have {', '.join(SCORINGS)}. {REMEDY}")
    for name in SCORINGS:
        if scores[name] is not None:
            check_score(scores[name], f"{name!r} score of {place.rstrip(',')}")


def check_no_copies(results: Mapping[str, Mapping]) -> None:
    """Raises ValueError if two results (with their names) are one: a copy says nothing of another training seed.

    They are one if they have the same settings and answers, and also if their letters have the very same
    probabilities: other weights give others.
    """
    names = list(results)
    for place, name in enumerate(names):
        for other in names[:place]:
            if is_copy(results[name], results[other]):
                raise ValueError(
                    f"{name} holds the same answers as {other}, so it is a copy and no other training seed. Give one "
                    "file for each seed."
                )


def is_copy(first: Mapping, second: Mapping) -> bool:
    ours, theirs = (answers_of(result) for result in (first, second))
    likelihoods = [list(values.values()) for _, values in ours.values() if isinstance(values, dict)]
    is_drawn = any(len(set(values)) > 1 for values in likelihoods)  # equal ones are those of chance
    return ours == theirs and (is_drawn or first["settings"] == second["settings"])


def answers_of(result: Mapping) -> dict[str, tuple]:
    """Text and probabilities by question."""
    return {item["id"]: (item.get("answer"), item.get("option_probabilities")) for item in result["questions"]}
