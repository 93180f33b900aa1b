"""What results say: scores with intervals over scenes, paired comparisons, and the tables that are printed.

The draws are those of `vega3d.statistics`. Letters: R resamples, S scenes, K question types, F result files (training
seeds).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vega3d.evaluation.metrics import CATEGORIES, EXTRA_CHOICE_TYPES, QUESTION_TYPES, average
from vega3d.evaluation.result_files import (
    SCORINGS,
    check_no_copies,
    check_same_questions,
    read_result,
    scene_name,
    scored_rows,
)
from vega3d.files import check_input
from vega3d.statistics import (
    FEW_SCENES,
    LEAST_SCENES,
    RESAMPLES,
    SHARE,
    Difference,
    Draws,
    Interval,
    draw,
    paired_difference,
    percentile_interval,
)
from vega3d.tables import aligned

COMPARISON_FORMAT = "vega3d-comparison-1"
CONCLUSIONS = {  # by `verdict`
    "-": "without an interval; more scenes with every question type are needed to say more.",
    "noise": "inside the noise: the 95 % interval of the difference holds 0.",
    "first": "outside the noise: the first side is better.",
    "second": "outside the noise: the second side is better.",
}
ALL = "all"
AVERAGED = [place for place, name in enumerate(QUESTION_TYPES) if name not in EXTRA_CHOICE_TYPES]
ROWS = {**CATEGORIES, **{name: (name,) for name in EXTRA_CHOICE_TYPES}}  # of the table: question types of each


def scene_sums(rows: Iterable[tuple[str, str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of rows (scene, question type, score), added up within scenes (in alphabetical order) and types.

    Returns:
        float[S, K] sums and float[S, K] numbers of questions.
    """
    rows = list(rows)
    places = {scene: place for place, scene in enumerate(sorted({scene for scene, _, _ in rows}))}
    sums, counts = np.zeros((2, len(places), len(QUESTION_TYPES)))
    for scene, question_type, score in rows:
        place = places[scene], QUESTION_TYPES.index(question_type)
        sums[place] += score
        counts[place] += 1
    return sums, counts


def type_scores(sums: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every score of the table from sums and numbers float[..., K] of the types, as `metrics.average` takes them.

    Returns:
        float[...] for each category, extra type, `macro` and `micro`; NaN where a type has no question. What has no
        question in the last entry of the leading axis is left out, and out of `macro`.
    """
    with np.errstate(invalid="ignore"):
        types = sums / counts  # float[..., K]
    scores = {}
    for name, members in ROWS.items():
        score = types[..., [QUESTION_TYPES.index(member) for member in members]].mean(-1)
        if np.isfinite(score[-1]):
            scores[name] = score
    scored = [score for name, score in scores.items() if name in CATEGORIES]
    if scored:
        scores["macro"] = np.mean(scored, axis=0)
    if counts[-1, AVERAGED].sum():
        with np.errstate(invalid="ignore"):
            scores["micro"] = sums[..., AVERAGED].sum(-1) / counts[..., AVERAGED].sum(-1)
    return scores


def scenes_by_score(counts: np.ndarray) -> dict[str, int]:
    """How many scenes each score of `type_scores` stands on: those with a question of its type.

    A mean of several types or categories is known no better than the one of fewest scenes. `counts` is float[S, K] of
    `scene_sums`.
    """
    held = dict(zip(QUESTION_TYPES, (counts > 0).sum(0).tolist(), strict=True))
    named = {name: min(held[member] for member in members) for name, members in ROWS.items()}
    scenes = {name: count for name, count in named.items() if count}
    categories = [count for name, count in scenes.items() if name in CATEGORIES]
    averaged = int((counts[:, AVERAGED] > 0).any(1).sum())
    return scenes | ({"macro": min(categories)} if categories else {}) | ({"micro": averaged} if averaged else {})


def result_scenes(result: Mapping) -> dict[str, int]:
    """`scenes_by_score` of the questions of a result, and `ALL`, the number of its scenes."""
    _, counts = scene_sums((scene_name(question), question["question_type"], 0.0) for question in result["questions"])
    return {**scenes_by_score(counts), ALL: len(counts)}


def scene_intervals(
    rows: Iterable[tuple[str, str, float]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals over scenes for each category and extra type that has a score, `macro` and `micro`.

    A resample without a question of some type counts neither for that type's category nor for `macro`. A score is of
    the scenes that have a question of its type (`scenes_by_score`): with fewer than two it has no interval. Rows are
    those of `scene_sums`.
    """
    sums, counts = scene_sums(rows)
    draws, scenes = draw(len(sums), (), resamples, seed), scenes_by_score(counts)
    scores = type_scores(draws.scenes @ sums, draws.scenes @ counts)
    return {name: percentile_interval(values, scenes[name], SHARE) for name, values in scores.items()}


def side_scores(results: Iterable[Mapping], scoring: str, draws: Draws, side: int) -> dict[str, np.ndarray]:
    """Scores float[R + 1] of one side: the mean over its drawn result files, each on the drawn scenes."""
    tables = [scene_sums(scored_rows(result, scoring)) for result in results]
    return type_scores(draws.sums([sums for sums, _ in tables], side), draws.scenes @ tables[0][1])


def compare(
    first: Mapping[str, Mapping],
    second: Mapping[str, Mapping],
    scoring: str = "official",
    resamples: int = RESAMPLES,
    seed: int = 0,
    paired_seeds: bool = False,
) -> dict[str, Difference]:
    """Paired comparison: both sides are scored on the same drawn scenes.

    Where a side has several results, of several training seeds, these are drawn with replacement too, each side by
    itself, or together with `paired_seeds`. With one result a side the interval says nothing about another training
    seed.

    Args:
        first: results by name (of their file), one for each seed.
        second: the same of the other model.
        scoring: `official`, `lmms_eval` or `likelihood`.
        resamples: R, how many times scenes are drawn.
        seed: decides the draws.
        paired_seeds: the n-th result of each side is of the same training seed, with the same first weights and order
            of the data, so that both are drawn or neither.

    Returns:
        For each category and extra type that has a score, `macro` and `micro`.

    Raises:
        ValueError: if a side is empty, the questions differ or one is there twice, there are no such scores or they
            are none in [0, 1], or paired sides differ in length.
    """
    if paired_seeds and len(first) != len(second):
        raise ValueError(f"Paired sides have one result a seed, but got {len(first)} and {len(second)}.")
    if not first or not second or resamples < 1:
        raise ValueError(f"Got {len(first)} and {len(second)} results and {resamples} resamples; give one at least.")
    check_same_questions([*first.items(), *second.items()])
    scenes = result_scenes(next(iter(first.values())))
    draws = draw(scenes[ALL], (len(first), len(second)), resamples, seed)
    ours = side_scores(first.values(), scoring, draws, 0)
    theirs = side_scores(second.values(), scoring, draws, 0 if paired_seeds else 1)
    return {name: paired_difference(ours[name], theirs[name], scenes[name]) for name in ours}


def seed_intervals(
    results: Mapping[str, Mapping], scoring: str = "official", resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Mean scores of several training seeds of one model, with 95 % intervals over seeds and scenes.

    Arguments and errors are those of `compare`, and so are the draws, with the same `seed`.
    """
    if not results or resamples < 1:
        raise ValueError(f"Got {len(results)} results and {resamples} resamples; give one at least.")
    check_same_questions(list(results.items()))
    scenes = result_scenes(next(iter(results.values())))
    scores = side_scores(results.values(), scoring, draw(scenes[ALL], (len(results),), resamples, seed), 0)
    return {name: percentile_interval(values, scenes[name], SHARE) for name, values in scores.items()}


def summarise(questions: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Scores of each kind of scoring, in [0, 1], with 95 % bootstrap intervals over scenes.

    Returns:
        For each scoring that all questions have: `figures`, `{name: {score, low, high}}` of each category and extra
        type with questions, `macro` and `micro`; `scenes`, how many scenes each stands on; `types`, the mean of each
        question type; `missing`, the types without questions.
    """
    summary = {}
    result = {"questions": questions}
    scenes = result_scenes(result)
    for scoring in SCORINGS:
        if any(question["scores"][scoring] is None for question in questions):
            continue
        rows = scored_rows(result, scoring)
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
    """`compare` of result files; several files a side are several training seeds of one model.

    Raises:
        ValueError: as `compare`, and if a file is no result file, or it or a copy of it is given twice on one side.
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
    scenes = result_scenes(result)
    rows = [["category", "questions", "scenes", "official", "95 % interval", *scorings[1:]]]
    for name in [*CATEGORIES, *sorted(official["figures"].keys() - CATEGORIES - {"macro", "micro"}), "macro", "micro"]:
        types = CATEGORIES.get(name, (name,))
        count = sum(question["question_type"] in types for question in questions)
        found = [summary[scoring]["figures"].get(name, {"score": None}) for scoring in scorings]
        interval = span(found[0].get("low"), found[0].get("high"))
        scores = [percent(one["score"]) for one in found]
        shown = str(count) if name not in ("macro", "micro") else ""
        rows.append([name, shown, str(scenes.get(name, "-")), scores[0], interval, *scores[1:]])
    all_scenes = len({scene_name(question) for question in questions})
    head = f"{result['settings']['name']} on {result['benchmark']}: {len(questions)} questions, {all_scenes} scenes"
    return "\n".join([head, *aligned(rows), *notes(result)])


def notes(result: Mapping) -> list[str]:
    """What keeps the scores of a result from being compared with published ones."""
    behind = result_scenes(result)
    lines = scene_notes({name: behind[name] for name in result["summary"]["official"]["figures"]})
    if result["summary"]["official"]["missing"]:
        missing = ", ".join(result["summary"]["official"]["missing"])
        lines.append(f"note: no questions of {missing}; macro is over the other categories, no VSI-Bench figure")
    if result["missing_videos"]:
        lines.append(f"note: missing videos, their questions left out: {len(result['missing_videos'])}")
    if result["debiased"]:
        left, scores = result["debiased"]["questions"], result["debiased"]["summary"]["official"]["figures"]
        macro = f"macro {percent(scores['macro']['score'])}" if "macro" in scores else "no macro"
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
    return [f"macro: {100 * (macro.second - macro.first):+.1f} points, {CONCLUSIONS[verdict(macro)]}"]


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
        "differences": {name: {**asdict(one), "verdict": verdict(one)} for name, one in differences.items()},
    }


def overview(result: Mapping) -> dict:
    """A result without its questions, for a short JSON output."""
    questions = result["questions"]
    counts = {"num_questions": len(questions), "num_scenes": len({scene_name(question) for question in questions})}
    return {**{name: value for name, value in result.items() if name != "questions"}, **counts}
