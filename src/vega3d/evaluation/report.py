"""The summary of a result, comparisons of result files, and the tables that are printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from vega3d.evaluation.metrics import CATEGORIES, average
from vega3d.evaluation.result_files import SCORINGS, check_no_copies, read_result, scene_name, scored_rows
from vega3d.evaluation.scores import compare, scene_intervals, scenes_of_result
from vega3d.files import check_input
from vega3d.statistics import FEW_SCENES, LEAST_SCENES, RESAMPLES, Difference
from vega3d.tables import aligned

COMPARISON_FORMAT = "vega3d-comparison-1"


def summarise(questions: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Scores of each kind of scoring, in [0, 1], with 95 % bootstrap intervals over scenes.

    Args:
        questions: of a result, with `dataset`, `scene`, `question_type` and `scores`.
        resamples: how many times the bootstrap draws scenes.
        seed: decides the draws.

    Returns:
        For each scoring that all questions have: `figures`, `{name: {score, low, high}}` of each category and extra
        type with questions, `macro` and `micro`; `scenes`, how many scenes each stands on; `types`, the mean of each
        question type; `missing`, the types without questions.
    """
    summary = {}
    scenes = scenes_of_result({"questions": questions})
    for scoring in SCORINGS:
        if any(question["scores"][scoring] is None for question in questions):
            continue
        rows = scored_rows({"questions": questions}, scoring)
        averages = average((question_type, score) for _, question_type, score in rows)
        intervals = scene_intervals(rows, resamples, seed)
        summary[scoring] = {
            "figures": {name: asdict(interval) for name, interval in intervals.items()},
            "scenes": {name: scenes[name] for name in intervals},
            "types": averages.types,
            "missing": list(averages.missing),
        }
    return summary


def compare_files(
    first: Sequence[str | Path],
    second: Sequence[str | Path],
    scoring: str = "official",
    resamples: int = RESAMPLES,
    seed: int = 0,
    paired_seeds: bool = False,
) -> dict[str, Difference]:
    """`scores.compare` of result files; several files a side are several training seeds of one model.

    Raises:
        ValueError: if a file is no result file, one or a copy of it is given twice on one side, or they are on other
            questions.
    """
    for side in (first, second):
        if len({Path(path).resolve() for path in map(check_input, side)}) < len(side):
            raise ValueError(f"A file is given twice: {', '.join(map(str, side))}. Give one file for each seed.")
    sides = [{str(path): read_result(path) for path in side} for side in (first, second)]
    for results in sides:
        check_no_copies(results)
    return compare(sides[0], sides[1], scoring, resamples, seed, paired_seeds)


def percent(value: float | None) -> str:
    """Such as `61.5`; `-` if there is no value."""
    return "-" if value is None else f"{100 * value:.1f}"


def span(low: float | None, high: float | None) -> str:
    """Such as `[58.0, 64.9]`; `-` if there is no interval."""
    return "-" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"


def format_table(result: Mapping) -> str:
    """The table of a result, in percent: both parsers, the likelihood, the interval of the official scores."""
    summary, questions = result["summary"], result["questions"]
    official = summary["official"]
    scorings = [scoring for scoring in SCORINGS if scoring in summary]
    scenes = scenes_of_result(result)
    rows = [["category", "questions", "scenes", "official", "95 % interval", *scorings[1:]]]
    for name in [*CATEGORIES, *sorted(official["figures"].keys() - CATEGORIES - {"macro", "micro"}), "macro", "micro"]:
        types = CATEGORIES.get(name, (name,))
        count = sum(question["question_type"] in types for question in questions)
        figures = [summary[scoring]["figures"].get(name, {"score": None}) for scoring in scorings]
        interval = span(figures[0].get("low"), figures[0].get("high"))
        scores = [percent(figure["score"]) for figure in figures]
        shown = str(count) if name not in ("macro", "micro") else ""
        rows.append([name, shown, str(scenes.get(name, "-")), scores[0], interval, *scores[1:]])
    all_scenes = len({scene_name(question) for question in questions})
    head = f"{result['settings']['name']} on {result['benchmark']}: {len(questions)} questions, {all_scenes} scenes"
    return "\n".join([head, *aligned(rows), *notes(result)])


def notes(result: Mapping) -> list[str]:
    """What keeps the figures of a result from being compared with published ones."""
    behind = scenes_of_result(result)
    lines = scene_notes({name: behind[name] for name in result["summary"]["official"]["figures"]})
    if result["summary"]["official"]["missing"]:
        missing = ", ".join(result["summary"]["official"]["missing"])
        lines.append(f"note: no questions of {missing}; macro is over the other categories, no VSI-Bench figure")
    if result["missing_videos"]:
        lines.append(f"note: missing videos, their questions left out: {len(result['missing_videos'])}")
    if result["debiased"]:
        left, figures = result["debiased"]["questions"], result["debiased"]["summary"]["official"]["figures"]
        macro = f"macro {percent(figures['macro']['score'])}" if "macro" in figures else "no macro"
        lines.append(f"note: without the questions that the table marks as pruned, {left} are left: {macro}")
    if result["settings"].get("notice"):
        lines.append(f"note: {result['settings']['notice']}")
    return lines


def scene_notes(scenes: Mapping[str, int]) -> list[str]:
    """What is to be known of intervals that stand on few scenes, or of one alone."""
    alone = [name for name, count in scenes.items() if count < LEAST_SCENES]
    few = [name for name, count in scenes.items() if LEAST_SCENES <= count < FEW_SCENES]
    lines = [f"note: too few scenes for an interval: {', '.join(alone)}"] if alone else []
    if few:
        lines.append(f"note: intervals from fewer than {FEW_SCENES} scenes cover less than they say: {', '.join(few)}")
    return lines


def format_comparison(differences: Mapping[str, Difference]) -> str:
    """The table of a comparison, in percent and points, and what it says about the macro average.

    `second better` is the share of draws the second side wins; `verdict` is `noise` where the interval holds 0.
    """
    rows = [["category", "first", "second", "difference", "95 % interval", "scenes", "second better", "verdict"]]
    for name, difference in differences.items():
        interval = difference.interval
        signed = f"{100 * (difference.second - difference.first):+.1f}"
        better = "-" if difference.better is None else f"{difference.better:.1%}"
        scores = percent(difference.first), percent(difference.second)
        found = span(interval.low, interval.high), str(difference.scenes), better, verdict(difference)
        rows.append([name, *scores, signed, *found])
    scenes = {name: difference.scenes for name, difference in differences.items()}
    return "\n".join([*aligned(rows), *scene_notes(scenes), *conclusion(differences)])


def verdict(difference: Difference) -> str:
    """`first` or `second` where the 95 % interval of the difference leaves out 0, `noise` where it holds 0."""
    low, high = difference.interval.low, difference.interval.high
    if low is None or high is None:
        return "-"
    return "noise" if low <= 0 <= high else "second" if low > 0 else "first"


def conclusion(differences: Mapping[str, Difference]) -> list[str]:
    """One sentence on the macro average; with nine or more rows, one of them lies outside by chance now and then."""
    if "macro" not in differences:
        return []
    macro = differences["macro"]
    points = f"{100 * (macro.second - macro.first):+.1f} points"
    return [
        {
            "-": f"macro: {points}, without an interval; more scenes with every question type are needed to say more.",
            "noise": f"macro: {points}, inside the noise: the 95 % interval of the difference holds 0.",
            "first": f"macro: {points}, outside the noise: the first side is better.",
            "second": f"macro: {points}, outside the noise: the second side is better.",
        }[verdict(macro)]
    ]


def comparison_values(
    first: Sequence[str | Path],
    second: Sequence[str | Path],
    scoring: str,
    differences: Mapping[str, Difference],
    paired_seeds: bool = False,
) -> dict:
    """A comparison as plain values for JSON; scores and differences in [0, 1] and [-1, 1]."""
    return {
        "format": COMPARISON_FORMAT,
        "first": [str(path) for path in first],
        "second": [str(path) for path in second],
        "scoring": scoring,
        "resamples": RESAMPLES,
        "paired_seeds": paired_seeds,
        "differences": {
            name: {**asdict(difference), "verdict": verdict(difference)} for name, difference in differences.items()
        },
    }


def overview(result: Mapping) -> dict:
    """A result without its questions, for a short JSON output."""
    questions = result["questions"]
    counts = {"num_questions": len(questions), "num_scenes": len({scene_name(question) for question in questions})}
    return {**{name: value for name, value in result.items() if name != "questions"}, **counts}
