"""What results say: scores with intervals over scenes, paired comparisons, and the tables that are printed.

The draws are those of `vega3d.statistics`; what is averaged, and how, is said by the `rules` of the benchmark, without
which they are those of VSI-Bench. Letters: R resamples, S scenes, K question types, C values that a scoring adds up, F
result files (training seeds).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vega3d.evaluation.result_files import (
    check_no_copies,
    check_same_questions,
    check_scored,
    read_result,
    scene_name,
)
from vega3d.evaluation.rules import OVERALL, VSIBENCH, Rules, Scoring, rules_of
from vega3d.files import check_input
from vega3d.statistics import (
    FEW_SCENES,
    LEAST_SCENES,
    RESAMPLES,
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
SHARES = Scoring()

Row = tuple[str, str, float | Sequence[float]]  # scene, question type, score or the C values of its scoring


def scene_sums(rows: Iterable[Row], rules: Rules = VSIBENCH, width: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Values of rows, added up within scenes (in alphabetical order) and types.

    Returns:
        float[S, K * C] sums, C being `width`, and float[S, K] numbers of questions.
    """
    rows = list(rows)
    places = {scene: place for place, scene in enumerate(sorted({scene for scene, _, _ in rows}))}
    sums = np.zeros((len(places), len(rules.types), width))
    counts = np.zeros((len(places), len(rules.types)))
    for scene, question_type, values in rows:
        place = places[scene], rules.types.index(question_type)
        sums[place] += values
        counts[place] += 1
    return sums.reshape(len(places), width * len(rules.types)), counts


def type_scores(
    sums: np.ndarray, counts: np.ndarray, rules: Rules = VSIBENCH, scoring: Scoring = SHARES
) -> dict[str, np.ndarray]:
    """Every score of the table from sums float[..., K * C] and numbers float[..., K] of the types.

    Of VSI-Bench they are as `metrics.average` takes them.

    Returns:
        float[...] for each row of the rules, `macro`, and the score over all questions; NaN where a type has no
        question. What has no question in the last entry of the leading axis is left out, and out of `macro`.
    """
    sums = sums.reshape(*counts.shape, scoring.width)
    types = scoring.average(sums, counts)  # float[..., K]
    scores = {}
    for name, members in rules.rows.items():
        score = types[..., [rules.types.index(member) for member in members]].mean(-1)
        if np.isfinite(score[-1]):
            scores[name] = score
    scored = [score for name, score in scores.items() if name in rules.macro]
    if scored:
        scores["macro"] = np.mean(scored, axis=0)
    if counts[-1, rules.averaged].sum():
        places = rules.averaged
        scores[rules.over_all] = scoring.average(sums[..., places, :].sum(-2), counts[..., places].sum(-1))
    return scores


def scenes_by_score(counts: np.ndarray, rules: Rules = VSIBENCH) -> dict[str, int]:
    """How many scenes each score of `type_scores` stands on: those with a question of its type.

    A mean of several types or categories is known no better than the one of fewest scenes. `counts` is float[S, K] of
    `scene_sums`.
    """
    held = dict(zip(rules.types, (counts > 0).sum(0).tolist(), strict=True))
    named = {name: min(held[member] for member in members) for name, members in rules.rows.items()}
    scenes = {name: count for name, count in named.items() if count}
    categories = [count for name, count in scenes.items() if name in rules.macro]
    averaged = int((counts[:, rules.averaged] > 0).any(1).sum())
    whole = {rules.over_all: averaged} if averaged else {}
    return scenes | ({"macro": min(categories)} if categories else {}) | whole


def result_scenes(result: Mapping) -> dict[str, int]:
    """`scenes_by_score` of the questions of a result, and `ALL`, the number of its scenes."""
    rules = rules_of(result.get("benchmark"))
    rows = ((scene_name(question), question["question_type"], 0.0) for question in result["questions"])
    _, counts = scene_sums(rows, rules)
    return {**scenes_by_score(counts, rules), ALL: len(counts)}


def scene_intervals(
    rows: Iterable[Row],
    resamples: int = RESAMPLES,
    seed: int = 0,
    rules: Rules = VSIBENCH,
    scoring: Scoring = SHARES,
) -> dict[str, Interval]:
    """95 % intervals over scenes for each score of `type_scores`.

    A resample without a question of some type counts neither for that type's category nor for `macro`. A score is of
    the scenes that have a question of its type (`scenes_by_score`): with fewer than two it has no interval. Rows are
    those of `scene_sums`.
    """
    sums, counts = scene_sums(rows, rules, scoring.width)
    draws, scenes = draw(len(sums), (), resamples, seed), scenes_by_score(counts, rules)
    scores = type_scores(draws.scenes @ sums, draws.scenes @ counts, rules, scoring)
    limits = (0.0, scoring.most)
    return {name: percentile_interval(values, scenes[name], limits) for name, values in scores.items()}


def scored_rows(result: Mapping, scoring: str) -> list[Row]:
    """The rows of a result; raises ValueError unless each question has such a score."""
    check_scored(result, scoring)
    how = rules_of(result.get("benchmark")).scorings[scoring]
    return [(scene_name(item), item["question_type"], how.values(item, scoring)) for item in result["questions"]]


def side_scores(results: Sequence[Mapping], scoring: str, draws: Draws, side: int) -> dict[str, np.ndarray]:
    """Scores float[R + 1] of one side: the mean over its drawn result files, each on the drawn scenes.

    Of a scoring of a corpus it is the score of what the drawn files add up to.
    """
    rules = rules_of(results[0].get("benchmark"))
    how = rules.scorings.get(scoring, SHARES)  # `scored_rows` refuses a scoring that is not there
    tables = [scene_sums(scored_rows(result, scoring), rules, how.width) for result in results]
    return type_scores(draws.sums([sums for sums, _ in tables], side), draws.scenes @ tables[0][1], rules, how)


def compare(
    first: Mapping[str, Mapping],
    second: Mapping[str, Mapping],
    scoring: str | None = None,
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
        scoring: one of the benchmark's, such as `likelihood`; its main one if None.
        resamples: R, how many times scenes are drawn.
        seed: decides the draws.
        paired_seeds: the n-th result of each side is of the same training seed, with the same first weights and order
            of the data, so that both are drawn or neither.

    Returns:
        For each score of `type_scores`.

    Raises:
        ValueError: if a side is empty, the questions differ or one is there twice, there are no such scores or they
            lie outside their limits, or paired sides differ in length.
    """
    if paired_seeds and len(first) != len(second):
        raise ValueError(f"Paired sides have one result a seed, but got {len(first)} and {len(second)}.")
    if not first or not second or resamples < 1:
        raise ValueError(f"Got {len(first)} and {len(second)} results and {resamples} resamples; give one at least.")
    check_same_questions([*first.items(), *second.items()])
    sides = list(first.values()), list(second.values())
    rules, scenes = rules_of(sides[0][0].get("benchmark")), result_scenes(sides[0][0])
    scoring = scoring or rules.main
    draws = draw(scenes[ALL], (len(first), len(second)), resamples, seed)
    ours = side_scores(sides[0], scoring, draws, 0)
    theirs = side_scores(sides[1], scoring, draws, 0 if paired_seeds else 1)
    most = rules.scorings[scoring].most
    return {name: paired_difference(ours[name], theirs[name], scenes[name], most) for name in ours}


def seed_intervals(
    results: Mapping[str, Mapping], scoring: str | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Mean scores of several training seeds of one model, with 95 % intervals over seeds and scenes.

    Arguments and errors are those of `compare`, and so are the draws, with the same `seed`.
    """
    if not results or resamples < 1:
        raise ValueError(f"Got {len(results)} results and {resamples} resamples; give one at least.")
    check_same_questions(list(results.items()))
    values = list(results.values())
    rules, scenes = rules_of(values[0].get("benchmark")), result_scenes(values[0])
    scoring = scoring or rules.main
    scores = side_scores(values, scoring, draw(scenes[ALL], (len(results),), resamples, seed), 0)
    limits = (0.0, rules.scorings[scoring].most)
    return {name: percentile_interval(values, scenes[name], limits) for name, values in scores.items()}


def summarise(
    questions: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0, benchmark: str | None = None
) -> dict:
    """Scores of each kind of scoring, from 0 up, with 95 % bootstrap intervals over scenes.

    Returns:
        For each scoring that all questions have: `figures`, `{name: {score, low, high}}` of each score of
        `type_scores`; `scenes`, how many scenes each stands on; `types`, the mean of each question type; `missing`,
        the types without questions.
    """
    summary = {}
    result = {"benchmark": benchmark, "questions": questions}
    rules, scenes = rules_of(benchmark), result_scenes(result)
    for scoring, how in rules.scorings.items():
        if any(question["scores"][scoring] is None for question in questions):
            continue
        rows = scored_rows(result, scoring)
        intervals = scene_intervals(rows, resamples, seed, rules, how)
        summary[scoring] = {
            "figures": {name: asdict(interval) for name, interval in intervals.items()},
            "scenes": {name: scenes[name] for name in intervals},
            **type_means(rows, rules, how),
        }
    return summary


def type_means(rows: Sequence[Row], rules: Rules, scoring: Scoring) -> dict:
    """`types`, the score of each type of question, and `missing`, the types that no question is of."""
    sums, counts = (table.sum(0) for table in scene_sums(rows, rules, scoring.width))
    scores = scoring.average(sums.reshape(*counts.shape, scoring.width), counts)
    return {
        "types": {name: float(scores[place]) for place, name in enumerate(rules.types) if counts[place]},
        "missing": [rules.types[place] for place in rules.averaged if not counts[place]],
    }


def compare_files(
    first: Sequence[str | Path],
    second: Sequence[str | Path],
    scoring: str | None = None,
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


def main_scoring(file: str | Path) -> str:
    """The scoring by which files of this one's benchmark are compared if none is asked for."""
    return rules_of(read_result(file)["benchmark"]).main


def percent(value: float | None) -> str:
    """Such as `61.5`; `-` if there is no value."""
    return "-" if value is None else f"{100 * value:.1f}"


def span(low: float | None, high: float | None) -> str:
    """Such as `[58.0, 64.9]`; `-` if there is no interval."""
    return "-" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"


def format_table(result: Mapping) -> str:
    """The table of a result, in percent: every scoring, and the interval of the main one."""
    summary, questions, rules = result["summary"], result["questions"], rules_of(result["benchmark"])
    figures = summary[rules.main]["figures"]
    scorings = [scoring for scoring in rules.scorings if scoring in summary]
    scenes = result_scenes(result)
    rows = [["category", "questions", "scenes", rules.main, "95 % interval", *scorings[1:]]]
    for name in table_rows(rules, figures):
        count = sum(question["question_type"] in rules.rows.get(name, ()) for question in questions)
        found = [summary[scoring]["figures"].get(name, {"score": None}) for scoring in scorings]
        interval = span(found[0].get("low"), found[0].get("high"))
        scores = [percent(one["score"]) for one in found]
        shown = str(count) if name in rules.rows else ""
        rows.append([name, shown, str(scenes.get(name, "-")), scores[0], interval, *scores[1:]])
    all_scenes = len({scene_name(question) for question in questions})
    head = f"{result['settings']['name']} on {result['benchmark']}: {len(questions)} questions, {all_scenes} scenes"
    return "\n".join([head, *aligned(rows), *notes(result)])


def table_rows(rules: Rules, figures: Mapping) -> list[str]:
    """The names of a table's rows: those that `macro` is of, others that have a score, and the averages."""
    own = rules.macro or rules.rows
    averages = ["macro"] if rules.macro else []
    return [*own, *sorted(figures.keys() - own - {"macro", rules.over_all}), *averages, rules.over_all]


def notes(result: Mapping) -> list[str]:
    """What keeps the scores of a result from being compared with published ones."""
    rules, behind = rules_of(result["benchmark"]), result_scenes(result)
    main = result["summary"][rules.main]
    lines = scene_notes({name: behind[name] for name in main["figures"]})
    if main["missing"]:
        without = "macro is over the other categories, no VSI-Bench figure" if rules.macro else "others are averaged"
        lines.append(f"note: no questions of {', '.join(main['missing'])}; {without}")
    if result["missing_videos"]:
        lines.append(f"note: missing {rules.source}s, their questions left out: {len(result['missing_videos'])}")
    if result["debiased"]:
        left, scores = result["debiased"]["questions"], result["debiased"]["summary"]["official"]["figures"]
        macro = f"macro {percent(scores['macro']['score'])}" if "macro" in scores else "no macro"
        lines.append(f"note: without the questions that the table marks as pruned, {left} are left: {macro}")
    meteor = result.get("meteor")
    if meteor:
        score = percent(meteor["score"]) if meteor["missing"] is None else f"not computed: {meteor['missing']}"
        lines.append(f"note: METEOR {score}")
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
    """The table of a comparison, in percent and points, and what it says about the average.

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
    """One sentence on the average; with nine or more rows, one of them lies outside by chance now and then."""
    for name in ("macro", OVERALL):
        if name in differences:
            average = differences[name]
            return [f"{name}: {100 * (average.second - average.first):+.1f} points, {CONCLUSIONS[verdict(average)]}"]
    return []


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
    """A result without its questions and what parsers make of them, for a short JSON output."""
    questions = result["questions"]
    counts = {"num_questions": len(questions), "num_scenes": len({scene_name(question) for question in questions})}
    return {**{name: value for name, value in result.items() if name not in ("questions", "parsers")}, **counts}
