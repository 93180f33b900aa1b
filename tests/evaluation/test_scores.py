"""Intervals over scenes, and comparisons of results on the same questions."""

import copy

import numpy as np
import pytest
from evaluation_data import question_rows
from scipy.stats import binomtest

from vega3d.evaluation.metrics import CATEGORIES, average
from vega3d.evaluation.report import compare, format_comparison, scene_intervals, seed_intervals, verdict
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


def test_an_equal_gain_everywhere_is_certain():
    scores = np.random.default_rng(0).random((20, 10)) * 0.5
    differences = compare({"a": result_with(scores, 20)}, {"b": result_with(scores + 0.125, 20)})
    macro = differences["macro"]
    assert macro.second - macro.first == pytest.approx(0.125)
    assert macro.interval.low == pytest.approx(0.125) and macro.interval.high == pytest.approx(0.125)
    assert macro.better == 1


def test_a_result_equals_itself():
    result = result_with(np.random.default_rng(0).random((20, 10)), 20)
    for difference in compare({"a": result}, {"b": copy.deepcopy(result)}).values():
        assert (difference.interval.score, difference.interval.low, difference.interval.high) == (0, 0, 0)
        assert difference.better == 0.5


@pytest.mark.parametrize("scenes", [2, 5, 6, 12])
def test_all_right_against_all_wrong_is_as_certain_as_its_scenes(scenes):
    wrong, right = (result_with(np.full((scenes, 10), score), scenes) for score in (0.0, 1.0))

    differences = compare({"a": wrong}, {"b": right})

    exact = binomtest(scenes, scenes).proportion_ci(0.95, "exact").low  # of scenes gain 1; the others may lose 1
    for difference in differences.values():
        interval = difference.interval
        assert (interval.score, interval.high) == (1, 1) and interval.low == pytest.approx(2 * exact - 1)
        assert verdict(difference) == ("second" if scenes >= 6 else "noise")


@pytest.mark.parametrize("scenes", [2, 5])
@pytest.mark.parametrize("gain", [0.0, 0.25, -0.25])
def test_an_equal_gain_in_few_scenes_has_no_interval(scenes, gain):
    first, second = (result_with(np.full((scenes, 10), score), scenes) for score in (0.5, 0.5 + gain))

    differences = compare({"a": first}, {"b": second})

    assert all(difference.interval == Interval(gain, None, None) for difference in differences.values())
    assert {verdict(difference) for difference in differences.values()} == {"-"}
    assert differences["macro"].better is None


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("scenes", [1, 2, 3, 12, 288])
def test_all_wrong_or_all_right_has_the_exact_interval_of_its_scenes(score, scenes):
    intervals = scene_intervals(rows_with(np.full((scenes, 10), score), scenes))

    exact = binomtest(int(score * scenes), scenes).proportion_ci(0.95, "exact")
    for interval in intervals.values():
        assert interval.score == score
        if scenes == 1:
            assert (interval.low, interval.high) == (None, None)
        else:
            assert (interval.low, interval.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_questions_of_one_scene_are_one_unit():
    """Twelve questions of one type, all right, in two of six scenes: two units, whatever else is asked."""
    rows = [row for row in rows_with(np.ones((6, 10)), 6) if row[1] != "object_counting"]
    rows += [(scene, "object_counting", 1.0) for scene in ("scene0000", "scene0001") for _ in range(6)]

    intervals = scene_intervals(rows)

    two, six = (binomtest(n, n).proportion_ci(0.95, "exact").low for n in (2, 6))
    assert intervals["object_counting"].low == intervals["macro"].low == pytest.approx(two)
    assert intervals["route_planning"].low == intervals["micro"].low == pytest.approx(six)


@pytest.mark.parametrize("paired", [False, True])
def test_seeds_are_no_scenes(paired):
    """Three seeds of one scene have neither an interval nor a verdict."""
    sides = [{str(n): result_with(np.full((1, 10), score + n / 10), 1) for n in range(3)} for score in (0.1, 0.6)]

    differences = compare(*sides, paired_seeds=paired)

    assert {verdict(difference) for difference in differences.values()} == {"-"}
    assert all(interval.low is None for interval in seed_intervals(sides[0]).values())


def test_a_category_of_one_scene_has_no_verdict():
    first, second = result_with(np.zeros((12, 10)), 12), result_with(np.ones((12, 10)), 12)
    for result in (first, second):
        questions = result["questions"]
        result["questions"] = [
            item for item in questions if item["question_type"] != "route_planning" or item["id"] == "4"
        ]

    differences = compare({"a": first}, {"b": second})

    assert verdict(differences["route_planning"]) == verdict(differences["macro"]) == "-"
    assert verdict(differences["object_counting"]) == "second"
    assert (differences["route_planning"].scenes, differences["micro"].scenes) == (1, 12)
    lines = format_comparison(differences).splitlines()
    assert "note: too few scenes for an interval: route_planning, macro" in lines


def test_varied_scores_have_the_percentile_interval_of_before():
    """Bit by bit what `numpy.quantile` gives of the resamples: published figures stay."""
    rows = rows_with(np.random.default_rng(5).random((30, 10)), 30)

    found = scene_intervals(rows)["micro"]

    sums = np.array([sum(score for scene, _, score in rows if scene == name) for name in sorted({r[0] for r in rows})])
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=2000)
    low, high = np.quantile(draws @ sums / 300, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


IMPOSSIBLE = [5, -0.1, 1.0001, float("nan"), float("inf"), "1", True, [1], None]


@pytest.mark.parametrize("score", IMPOSSIBLE, ids=repr)
def test_scores_that_cannot_be_are_refused(score):
    result = result_with(np.ones((3, 10)), 3)
    broken = copy.deepcopy(result)
    broken["questions"][4]["scores"]["official"] = score

    with pytest.raises(ValueError, match=r"question 4|first is 4"):
        compare({"a": result}, {"b": broken})


def test_a_question_that_is_there_twice_is_refused():
    result = result_with(np.ones((3, 10)), 3)
    repeated = {"questions": [*result["questions"], *[result["questions"][7]] * 50]}

    for sides in (({"a": result}, {"b": repeated}), ({"b": repeated}, {"a": result})):
        with pytest.raises(ValueError, match="b has question 7 51 times"):
            compare(*sides)


@pytest.mark.parametrize("header", ["benchmark", "questions_sha256"])
def test_results_of_another_benchmark_are_refused(header):
    result = {**result_with(np.ones((3, 10)), 3), header: "one"}

    with pytest.raises(ValueError, match=f"their {header} differ: 'one' and 'other'"):
        compare({"a": result}, {"b": {**result, header: "other"}})


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
