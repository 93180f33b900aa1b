"""Bootstrap intervals over scenes, and the paired comparison of results on the same questions.

Questions about one scene share its video and are not independent, so whole scenes are drawn with replacement (cluster
bootstrap, percentile method: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8 and 5.3). Where
all scenes have the same score or difference, the exact interval of `statistics.interval_of_a_constant` stands instead.
Letters: R resamples, S scenes, K question types, F result files (training seeds).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vega3d.evaluation.metrics import CATEGORIES, EXTRA_CHOICE_TYPES, QUESTION_TYPES
from vega3d.statistics import DIFFERENCE, RESAMPLES, SHARE, Interval, drawn, interval_of

ALL = "all"
SAME_HEADERS = ("benchmark", "questions_sha256")
SAME_FIELDS = ("dataset", "scene", "question_type", "question", "options", "ground_truth", "frame", "marks")


@dataclass(frozen=True)
class Difference:
    """
    Attributes:
        first, second: scores of the two sides, means over their result files.
        interval: of `second - first`.
        better: share of the resamples in which the second side is better, half of the ties included; None like the
            interval's ends.
        scenes: how many have the score; of an average those of its category that has fewest.
    """

    first: float
    second: float
    interval: Interval
    better: float | None
    scenes: int


def scene_sums(rows: Iterable[tuple[str, str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores added up within scenes and types.

    Args:
        rows: scene, question type and score of each question.

    Returns:
        float64[S, K] sums and float64[S, K] numbers of questions; scenes in alphabetical order.
    """
    rows = list(rows)
    places = {scene: place for place, scene in enumerate(sorted({scene for scene, _, _ in rows}))}
    sums, counts = np.zeros((2, len(places), len(QUESTION_TYPES)))
    for scene, question_type, score in rows:
        cell = places[scene], QUESTION_TYPES.index(question_type)
        sums[cell] += score
        counts[cell] += 1
    return sums, counts


def scores_of_types(sums: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure of the table from sums and numbers float[..., K] of the types, as `metrics.average` takes them.

    Returns:
        float[...] for each category, extra type, `macro` and `micro`; NaN where a type has no question. What has no
        question in the last entry of the leading axis is left out, and out of `macro`.
    """
    with np.errstate(invalid="ignore"):
        types = sums / counts  # float[..., K]
    scores = {}
    for name, members in {**CATEGORIES, **{name: (name,) for name in EXTRA_CHOICE_TYPES}}.items():
        score = types[..., [QUESTION_TYPES.index(member) for member in members]].mean(-1)
        if np.isfinite(score[-1]):
            scores[name] = score
    scored = [score for name, score in scores.items() if name in CATEGORIES]
    if scored:
        scores["macro"] = np.mean(scored, axis=0)
    averaged = [place for place, name in enumerate(QUESTION_TYPES) if name not in EXTRA_CHOICE_TYPES]
    if counts[-1, averaged].sum():
        with np.errstate(invalid="ignore"):
            scores["micro"] = sums[..., averaged].sum(-1) / counts[..., averaged].sum(-1)
    return scores


def scenes_of_scores(counts: np.ndarray) -> dict[str, int]:
    """How many scenes each score of `scores_of_types` stands on: those with a question of its type.

    A mean of several types or categories is known no better than the one of fewest scenes.

    Args:
        counts: float[S, K] of `scene_sums`.
    """
    held = dict(zip(QUESTION_TYPES, (counts > 0).sum(0).tolist(), strict=True))
    named = {name: min(held[member] for member in members) for name, members in CATEGORIES.items()}
    named |= {name: held[name] for name in EXTRA_CHOICE_TYPES}
    scenes = {name: count for name, count in named.items() if count}
    of_macro = [count for name, count in scenes.items() if name in CATEGORIES]
    averaged = [place for place, name in enumerate(QUESTION_TYPES) if name not in EXTRA_CHOICE_TYPES]
    of_micro = int((counts[:, averaged] > 0).any(1).sum())
    return scenes | ({"macro": min(of_macro)} if of_macro else {}) | ({"micro": of_micro} if of_micro else {})


def scene_intervals(
    rows: Iterable[tuple[str, str, float]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals over scenes.

    A resample without a question of some type counts neither for that type's category nor for `macro`. A score is of
    the scenes that have a question of its type (`scenes_of_scores`): with fewer than two it has no interval.

    Args:
        rows: scene, question type and score of each question.
        resamples: how many times scenes are drawn.
        seed: of the draws.

    Returns:
        For each category and extra type that has a score, `macro` and `micro`.

    Raises:
        ValueError: if there are no questions or no resamples.
    """
    sums, counts = scene_sums(rows)
    if not len(sums) or resamples < 1:
        raise ValueError(f"Got {len(sums)} scenes and {resamples} resamples, but an interval needs one of each.")
    weights = drawn(np.random.default_rng(seed), resamples, len(sums))
    scores, scenes = scores_of_types(weights @ sums, weights @ counts), scenes_of_scores(counts)
    return {name: interval_of(values, scenes[name], SHARE) for name, values in scores.items()}


def scene_of(question: Mapping) -> str:
    return f"{question['dataset']}/{question['scene']}"


def rows_of(result: Mapping, scoring: str) -> list[tuple[str, str, float]]:
    """Scene, type and score of each question of a result.

    Raises:
        ValueError: if it lacks scores of this kind, or one is no number in [0, 1].
    """
    unscored = [question["id"] for question in result["questions"] if question["scores"].get(scoring) is None]
    if unscored:
        raise ValueError(
            f"The result has no {scoring!r} score for {len(unscored)} of {len(result['questions'])} questions, the "
            f"first is {unscored[0]}. Choose another scoring, such as 'official'."
        )
    for item in result["questions"]:
        check_score(item["scores"][scoring], f"{scoring!r} score of question {item['id']}")
    return [(scene_of(item), item["question_type"], item["scores"][scoring]) for item in result["questions"]]


def check_score(score: Any, name: str) -> None:
    """Raises ValueError unless it is a number in [0, 1]."""
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise ValueError(
            f"The {name} is {score!r:.80}, but a score is a number from 0 to 1. Evaluate the model again."
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


def side_scores(results: Sequence[Mapping], scoring: str, scenes: np.ndarray, files: np.ndarray) -> dict:
    """Scores float[R + 1] of one side, the mean over its drawn result files, each on the drawn scenes.

    Args:
        results: F results on the same questions.
        scoring: name of the scores.
        scenes: float[R + 1, S], how often each scene is drawn.
        files: float[R + 1, F], how often each file is drawn.
    """
    tables = [scene_sums(rows_of(result, scoring)) for result in results]
    counts = scenes @ tables[0][1]  # float[R + 1, K]
    sums = np.stack([scenes @ table for table, _ in tables], axis=1)  # float[R + 1, F, K]
    shares = files / files.sum(-1, keepdims=True)
    return scores_of_types(np.einsum("rf,rfk->rk", shares, sums), counts)


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
        resamples: number of draws.
        seed: of the draws.
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
    random = np.random.default_rng(seed)
    behind = scenes_of_result(next(iter(first.values())))
    scenes = drawn(random, resamples, behind[ALL])
    files = [drawn(random, resamples, len(side)) for side in (first, second)]
    if paired_seeds:
        files[1] = files[0]
    ours, theirs = (
        side_scores(list(side.values()), scoring, scenes, drawn_files)
        for side, drawn_files in zip((first, second), files, strict=True)
    )
    return {name: difference_of(ours[name], theirs[name], behind[name]) for name in ours}


def seed_intervals(
    results: Mapping[str, Mapping], scoring: str = "official", resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Mean scores of several training seeds of one model, with 95 % intervals over seeds and scenes.

    Args:
        results: by name, one for each seed, on the same questions.
        scoring: `official`, `lmms_eval` or `likelihood`.
        resamples: number of draws.
        seed: of the draws; scenes and seeds are those of `compare` with the same one.

    Raises:
        ValueError: as `compare` does.
    """
    if not results or resamples < 1:
        raise ValueError(f"Got {len(results)} results and {resamples} resamples; give one at least.")
    check_same_questions(list(results.items()))
    random = np.random.default_rng(seed)
    behind = scenes_of_result(next(iter(results.values())))
    scenes = drawn(random, resamples, behind[ALL])
    scores = side_scores(list(results.values()), scoring, scenes, drawn(random, resamples, len(results)))
    return {name: interval_of(values, behind[name], SHARE) for name, values in scores.items()}


def scenes_of_result(result: Mapping) -> dict[str, int]:
    """`scenes_of_scores` of the questions of a result, and `ALL`, the number of its scenes."""
    _, counts = scene_sums((scene_of(question), question["question_type"], 0.0) for question in result["questions"])
    return {**scenes_of_scores(counts), ALL: len(counts)}


def difference_of(first: np.ndarray, second: np.ndarray, scenes: int) -> Difference:
    """From the scores float[R + 1] of both sides, the last one being the score itself."""
    values = second - first
    interval = interval_of(values, scenes, DIFFERENCE)
    usable = values[:-1][np.isfinite(values[:-1])]
    better = None if interval.low is None else float(np.mean((usable > 0) + 0.5 * (usable == 0)))
    return Difference(float(first[-1]), float(second[-1]), interval, better, scenes)
