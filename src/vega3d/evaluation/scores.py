"""Scores of question types, categories and averages with intervals over scenes, and the paired comparison of results.

The draws are those of `vega3d.statistics`. Letters: R resamples, S scenes, K question types, F result files (training
seeds).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from vega3d.evaluation.metrics import CATEGORIES, EXTRA_CHOICE_TYPES, QUESTION_TYPES
from vega3d.evaluation.result_files import check_same_questions, scene_name, scored_rows
from vega3d.statistics import (
    RESAMPLES,
    SHARE,
    Difference,
    Draws,
    Interval,
    draw,
    paired_difference,
    percentile_interval,
)

ALL = "all"
AVERAGED = [place for place, name in enumerate(QUESTION_TYPES) if name not in EXTRA_CHOICE_TYPES]
ROWS = {**CATEGORIES, **{name: (name,) for name in EXTRA_CHOICE_TYPES}}  # of the table: question types of each


def scene_sums(rows: Iterable[tuple[str, str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores added up within scenes and types.

    Args:
        rows: scene, question type and score of each question.

    Returns:
        float[S, K] sums and float[S, K] numbers of questions; scenes in alphabetical order.
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


def scenes_of_scores(counts: np.ndarray) -> dict[str, int]:
    """How many scenes each score of `type_scores` stands on: those with a question of its type.

    A mean of several types or categories is known no better than the one of fewest scenes.

    Args:
        counts: float[S, K] of `scene_sums`.
    """
    held = dict(zip(QUESTION_TYPES, (counts > 0).sum(0).tolist(), strict=True))
    named = {name: min(held[member] for member in members) for name, members in ROWS.items()}
    scenes = {name: count for name, count in named.items() if count}
    categories = [count for name, count in scenes.items() if name in CATEGORIES]
    averaged = int((counts[:, AVERAGED] > 0).any(1).sum())
    return scenes | ({"macro": min(categories)} if categories else {}) | ({"micro": averaged} if averaged else {})


def scenes_of_result(result: Mapping) -> dict[str, int]:
    """`scenes_of_scores` of the questions of a result, and `ALL`, the number of its scenes."""
    _, counts = scene_sums((scene_name(question), question["question_type"], 0.0) for question in result["questions"])
    return {**scenes_of_scores(counts), ALL: len(counts)}


def scene_intervals(
    rows: Iterable[tuple[str, str, float]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals over scenes for each category and extra type that has a score, `macro` and `micro`.

    A resample without a question of some type counts neither for that type's category nor for `macro`. A score is of
    the scenes that have a question of its type (`scenes_of_scores`): with fewer than two it has no interval.

    Args:
        rows: scene, question type and score of each question.
        resamples: R, how many times scenes are drawn.
        seed: decides the draws.

    Raises:
        ValueError: if there are no questions or no resamples.
    """
    sums, counts = scene_sums(rows)
    draws, scenes = draw(len(sums), (), resamples, seed), scenes_of_scores(counts)
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
    scenes = scenes_of_result(next(iter(first.values())))
    draws = draw(scenes[ALL], (len(first), len(second)), resamples, seed)
    ours = side_scores(first.values(), scoring, draws, 0)
    theirs = side_scores(second.values(), scoring, draws, 0 if paired_seeds else 1)
    return {name: paired_difference(ours[name], theirs[name], scenes[name]) for name in ours}


def seed_intervals(
    results: Mapping[str, Mapping], scoring: str = "official", resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Mean scores of several training seeds of one model, with 95 % intervals over seeds and scenes.

    Args:
        results: by name, one for each seed, on the same questions.
        scoring: `official`, `lmms_eval` or `likelihood`.
        resamples: R, how many times scenes are drawn.
        seed: decides the draws; scenes and seeds are those of `compare` with the same one.

    Raises:
        ValueError: as `compare` does.
    """
    if not results or resamples < 1:
        raise ValueError(f"Got {len(results)} results and {resamples} resamples; give one at least.")
    check_same_questions(list(results.items()))
    scenes = scenes_of_result(next(iter(results.values())))
    scores = side_scores(results.values(), scoring, draw(scenes[ALL], (len(results),), resamples, seed), 0)
    return {name: percentile_interval(values, scenes[name], SHARE) for name, values in scores.items()}
