"""Result files of `run.evaluate`, read and checked: what is scored from a file must be what was answered."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vega3d.evaluation.rules import Rules, rules_of
from vega3d.files import read_json
from vega3d.statistics import SAME

FORMAT = "vega3d-evaluation-1"
TEXTS = ("id", "dataset", "scene", "question_type")  # of each question
SAME_HEADERS = ("benchmark", "questions_sha256")  # of results that may be compared
SAME_FIELDS = ("dataset", "scene", "question_type", "question", "options", "ground_truth", "frame", "marks")
RESULT_REMEDY = "Make it anew with `vega3d evaluate --output`."


def read_result(path: str | Path) -> dict:
    """A result file of `run.evaluate`; raises ValueError if it is not there, or holds what no evaluation gives."""
    if not Path(path).exists() and not Path(path).is_symlink():
        raise ValueError(f"There is no result file {path}. Make it with `vega3d evaluate --output`.")
    result = read_json(path, RESULT_REMEDY)
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {result.get('format')!r:.80}, but must be a result file, {FORMAT!r}.")
    for name, kind in (("benchmark", str), ("questions_sha256", str), ("settings", dict), ("summary", dict)):
        if not isinstance(result.get(name), kind):
            raise ValueError(
                f"{path} has the {name} {result.get(name)!r:.80}, which is no {kind.__name__}. {RESULT_REMEDY}"
            )
    rules = rules_of(result["benchmark"])
    main = result["summary"].get(rules.main)
    if not isinstance(main, dict) or not isinstance(main.get("figures"), dict):
        raise ValueError(
            f"{path} has the summary {result['summary']!r:.80}, without {rules.main} figures. {RESULT_REMEDY}"
        )
    questions = result.get("questions")
    if not isinstance(questions, list):
        raise ValueError(f"{path} has the questions {questions!r:.80}, which are no list. {RESULT_REMEDY}")
    for number, question in enumerate(questions, start=1):
        check_question(question, rules, f"{path}, question {number},")
    questions_by_id(str(path), result)
    return result


def check_question(question: Any, rules: Rules, place: str) -> None:
    """Raises ValueError unless it names a scene and a type, and its scores are numbers in their limits, or None."""
    if not isinstance(question, dict):
        raise ValueError(f"{place} is {question!r:.80}, but must hold names with values. {RESULT_REMEDY}")
    bad = [name for name in TEXTS if not isinstance(question.get(name), str)]
    if bad or question["question_type"] not in rules.types:
        name = bad[0] if bad else "question_type"
        raise ValueError(f"{place} has the {name} {question.get(name)!r:.80}, which no question has. {RESULT_REMEDY}")
    scores = question.get("scores")
    if not isinstance(scores, dict) or not set(rules.scorings) <= scores.keys():
        raise ValueError(
            f"{place} has the scores {scores!r:.80}, but must have {', '.join(rules.scorings)}. {RESULT_REMEDY}"
        )
    for name, scoring in rules.scorings.items():
        if scores[name] is not None:
            check_score(scores[name], f"{name!r} score of {place.rstrip(',')}", scoring.most)
    width = max(scoring.width for scoring in rules.scorings.values())
    counts = question.get("counts")
    if width > 1 and not (isinstance(counts, list) and len(counts) == width and all(map(is_count, counts))):
        raise ValueError(f"{place} has the counts {counts!r:.80}, but must have {width} numbers. {RESULT_REMEDY}")


def is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


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
    ours, theirs = (
        {item["id"]: (item.get("answer"), item.get("option_probabilities")) for item in result["questions"]}
        for result in (first, second)
    )
    likelihoods = [list(values.values()) for _, values in ours.values() if isinstance(values, dict)]
    is_drawn = any(len(set(values)) > 1 for values in likelihoods)  # equal ones are those of chance
    return ours == theirs and (is_drawn or first["settings"] == second["settings"])


def scene_name(question: Mapping) -> str:
    return f"{question['dataset']}/{question['scene']}"


def check_scored(result: Mapping, scoring: str) -> None:
    """Raises ValueError unless each question has a score of this kind, within its limits."""
    rules = rules_of(result.get("benchmark"))
    unscored = [question["id"] for question in result["questions"] if question["scores"].get(scoring) is None]
    if unscored or scoring not in rules.scorings:
        raise ValueError(
            f"The result has no {scoring!r} score for {len(unscored)} of {len(result['questions'])} questions, the "
            f"first is {unscored[0]}. Choose another scoring, such as {rules.main!r}."
        )
    for item in result["questions"]:
        name = f"{scoring!r} score of question {item['id']}"
        check_score(item["scores"][scoring], name, rules.scorings[scoring].most)


def check_score(score: Any, name: str, most: float = 1.0) -> None:
    """Raises ValueError unless it is a number from 0 to `most`, up to rounding."""
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= most * (1 + SAME):
        raise ValueError(
            f"The {name} is {score!r:.80}, but a score is a number from 0 to {most:g}. Evaluate the model again."
        )


def questions_by_id(name: str, result: Mapping) -> dict[str, Mapping]:
    """Raises ValueError if there is no question, or one is there twice."""
    questions = {question["id"]: question for question in result["questions"]}
    if not questions or len(questions) < len(result["questions"]):
        counts = Counter(question["id"] for question in result["questions"])
        [(first, count)] = counts.most_common(1) or [(None, 0)]
        what = f"question {first} {count} times" if questions else "no questions"
        raise ValueError(f"{name} has {what}, but a result has each question once. Evaluate the model again.")
    return questions


def check_same_questions(results: Iterable[tuple[str, Mapping]]) -> None:
    """Raises ValueError, naming the difference, unless all results (with their names) are on the same questions."""
    (first_name, first_result), *others = results
    first = questions_by_id(first_name, first_result)
    for name, result in others:
        other = questions_by_id(name, result)
        differences = [
            f"{len(ids)} only in {where}, the first is {min(ids)}"
            for where, ids in ((first_name, first.keys() - other.keys()), (name, other.keys() - first.keys()))
            if ids
        ]
        changed = [
            f"question {key} differs in {field}: {first[key][field]!r} and {other[key][field]!r}"
            for key in first
            if key in other
            for field in SAME_FIELDS
            if first[key].get(field) != other[key].get(field)
        ]
        differences += [f"{len(changed)} fields differ, the first: {changed[0]}"] if changed else []
        differences += [
            f"their {header} differ: {first_result.get(header)!r} and {result.get(header)!r}"
            for header in SAME_HEADERS
            if not differences and first_result.get(header) != result.get(header)
        ]
        if differences:
            raise ValueError(
                f"{first_name} and {name} are results of other questions: {'; '.join(differences)}. Evaluate both "
                "models on the same table, videos and limit."
            )
