"""Intervals over scenes, and comparisons of results on the same questions."""

import copy

import numpy as np
import pytest
from evaluation_data import question_rows

from vega3d.evaluation.bootstrap import compare, scene_intervals
from vega3d.evaluation.metrics import CATEGORIES, average
from vega3d.statistics import Interval


def rows_with(scores: np.ndarray, scenes: int) -> list[tuple[str, str, float]]:
    rows = question_rows(scenes)
    return [
        (row["scene_name"], row["question_type"], float(score)) for row, score in zip(rows, scores.flat, strict=True)
    ]


def result_with(scores: np.ndarray, scenes: int) -> dict:
    questions = []
    for row, score in zip(question_rows(scenes), scores.flat, strict=True):
        question = {**row, "id": str(row["id"]), "scene": row["scene_name"], "scores": {"official": float(score)}}
        questions.append(question)
    return {"questions": questions}


def test_scores_are_the_plain_averages():
    rows = [*rows_with(np.random.default_rng(0).random((7, 10)), 7)[:-3], ("s", "localisation_by_choice", 0.5)]
    intervals = scene_intervals(rows)
    averages = average([row[1:] for row in rows])
    for name in CATEGORIES:
        assert intervals[name].score == pytest.approx(averages.categories[name], abs=1e-12)
    assert intervals["macro"].score == pytest.approx(averages.macro, abs=1e-12)
    assert intervals["micro"].score == pytest.approx(averages.micro, abs=1e-12)
    assert intervals["localisation_by_choice"].score == 0.5


def test_categories_without_questions_are_left_out():
    rows = [row for row in rows_with(np.ones((4, 10)), 4) if row[1] != "object_rel_direction_hard"]
    intervals = scene_intervals(rows)
    assert "object_rel_direction" not in intervals
    assert intervals["macro"].score == intervals["micro"].score == 1


def test_scenes_are_drawn_and_not_questions():
    """Right or wrong by whole scenes: the interval has the width of 50 draws, not of 500."""
    scores = np.repeat(np.arange(50) % 2, 10).reshape(50, 10)
    interval = scene_intervals(rows_with(scores, 50))["micro"]
    width = 2 * 1.96 * (0.25 / 50) ** 0.5
    assert interval.high - interval.low == pytest.approx(width, rel=0.1)
    assert interval.low < 0.5 < interval.high


def test_the_interval_covers_the_truth():
    """Of 200 benchmarks drawn from one model about 95 % have the model's true score in their interval."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(200):
        ability = random.normal(0.6, 0.15, (40, 1)).clip(0, 1)
        scores = random.random((40, 10)) < ability
        interval = scene_intervals(rows_with(scores, 40), resamples=400)["macro"]
        covered += interval.low <= 0.6 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_seeds_decide():
    rows = rows_with(np.random.default_rng(0).random((9, 10)), 9)
    assert scene_intervals(rows) == scene_intervals(rows)
    assert scene_intervals(rows, seed=1) != scene_intervals(rows)
    assert scene_intervals(list(reversed(rows)))["macro"].low == pytest.approx(scene_intervals(rows)["macro"].low)


def test_too_few_scenes_have_no_interval():
    interval = scene_intervals(rows_with(np.ones((1, 10)), 1))["macro"]
    assert (interval.score, interval.low, interval.high) == (1, None, None)
    rows = [*rows_with(np.ones((30, 10)), 30)]
    rare = [row for row in rows if row[1] != "route_planning" or row[0] == "scene0004"]
    intervals = scene_intervals(rare)  # the one scene is in 1 - 1/e = 63 % of the resamples
    assert intervals["route_planning"] == intervals["macro"] == Interval(1, None, None)
    assert intervals["object_counting"].low is not None
    with pytest.raises(ValueError, match="0 scenes"):
        scene_intervals([])


@pytest.mark.parametrize("scenes", [3, 20])
def test_an_equal_gain_everywhere_has_an_interval_of_its_scenes(scenes):
    scores = np.random.default_rng(0).random((scenes, 10)) * 0.5

    differences = compare({"a": result_with(scores, scenes)}, {"b": result_with(scores + 0.125, scenes)})

    macro, share = differences["macro"], 0.025 ** (1 / scenes)  # of scenes with this gain; the others have -1 to 1
    assert macro.second - macro.first == pytest.approx(0.125)
    assert macro.interval.low == pytest.approx(share * 0.125 - (1 - share))
    assert macro.interval.high == pytest.approx(share * 0.125 + (1 - share))
    assert macro.better == 1 and macro.scenes == scenes


def test_a_result_equals_itself():
    result = result_with(np.random.default_rng(0).random((20, 10)), 20)
    for difference in compare({"a": result}, {"b": copy.deepcopy(result)}).values():
        interval = difference.interval
        assert interval.score == 0 and interval.low == -interval.high == pytest.approx(0.025 ** (1 / 20) - 1)
        assert difference.better == 0.5


def test_seeds_widen_the_interval():
    """Three seeds that differ by 0.2 and 0.4 everywhere: scenes alone would give an interval of no width."""
    base = np.full((20, 10), 0.5)
    seeds = {f"seed{index}": result_with(base + 0.2 * (index - 1), 20) for index in range(3)}
    other = {f"other{index}": result_with(base, 20) for index in range(3)}
    macro = compare(seeds, other)["macro"]
    assert macro.first == pytest.approx(0.5) and macro.interval.score == pytest.approx(0)
    # The mean of three draws from {-0.2, 0, 0.2} is -0.2 with probability 1/27 > 2.5 %.
    assert macro.interval.low == pytest.approx(-0.2) and macro.interval.high == pytest.approx(0.2)


def test_other_questions_are_refused():
    result = result_with(np.ones((3, 10)), 3)
    fewer = {"questions": result["questions"][:-2]}
    with pytest.raises(ValueError, match=r"a\.json and b\.json .* 2 only in a\.json, the first is 28"):
        compare({"a.json": result}, {"b.json": fewer})
    with pytest.raises(ValueError, match=r"2 only in b\.json"):
        compare({"a.json": fewer}, {"b.json": result})
    changed = copy.deepcopy(result)
    changed["questions"][9]["ground_truth"] = "77"
    with pytest.raises(
        ValueError, match=r"1 fields differ, the first: question 9 differs in ground_truth: '\d' and '77'"
    ):
        compare({"a.json": result}, {"b.json": changed})
    with pytest.raises(ValueError, match=r"a\.json and c\.json"):
        compare({"a.json": result}, {"b.json": result, "c.json": changed})
    with pytest.raises(ValueError, match="no 'likelihood' score for 30 of 30"):
        compare({"a": result}, {"b": result}, scoring="likelihood")
    with pytest.raises(ValueError, match="0 and 1 results"):
        compare({}, {"b": result})
