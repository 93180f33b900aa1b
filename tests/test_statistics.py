"""Draws of scenes and training seeds: published intervals depend on them."""

import numpy as np
import pytest

from vega3d.statistics import draw, paired_rates, wilson_interval


def test_a_seed_draws_the_same_scenes_and_training_seeds_in_every_version():
    draws = draw(5, (2, 3), resamples=3, seed=7)

    assert draws.scenes.tolist() == [[1, 2, 1, 0, 1], [0, 2, 0, 2, 1], [2, 1, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert [seeds.tolist() for seeds in draws.seeds] == [[[1, 1]] * 4, [[1, 2, 0], [2, 1, 0], [3, 0, 0], [1, 1, 1]]]


def test_the_last_row_is_the_score_itself():
    values = np.random.default_rng(0).random((3, 5, 4))
    draws = draw(5, (3,), resamples=10)

    assert draws.sums(list(values), 0)[-1] == pytest.approx(values.mean(0).sum(0))
    assert draws.means(values)[-1] == pytest.approx(values.mean((0, 1)))


@pytest.mark.parametrize("arguments", [(0,), (3, (0,)), (3, (), 0)])
def test_nothing_to_draw_is_refused(arguments):
    with pytest.raises(ValueError, match="give one of each at least"):
        draw(*arguments)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0, 0.2775),
        (10, 10, 0.7225, 1),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_of_the_literature(successes, trials, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3; and their limits."""
    interval = wilson_interval(successes, trials)

    assert interval.score == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def successes_of(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    sides = np.repeat([[True, True], [True, False], [False, True], [False, False]], [both, first, second, neither], 0)
    return sides[:, 0], sides[:, 1]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 2, 12, 0), 0.0569, 0.3404), ((54, 0, 0, 0), -0.0664, 0.0664), ((0, 0, 30, 0), 0.8395, 1.0)],
)
def test_paired_rates_have_the_intervals_of_the_literature(counts, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10."""
    found = paired_rates(*successes_of(*counts))

    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=5e-5)


def test_a_paired_interval_is_narrower_where_both_sides_succeed_together():
    together = paired_rates(*successes_of(30, 5, 10, 30))
    apart = paired_rates(*successes_of(5, 30, 35, 5))

    assert together.interval.score == apart.interval.score == pytest.approx(5 / 75)
    assert together.interval.high - together.interval.low < 0.6 * (apart.interval.high - apart.interval.low)
    swapped = paired_rates(*successes_of(30, 10, 5, 30)).interval
    assert (swapped.low, swapped.high) == pytest.approx((-together.interval.high, -together.interval.low))


def test_paired_intervals_cover_the_true_difference():
    random, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        states = random.random(40)
        first, second = (states + random.normal(0, 0.1, 40) > limit for limit in (0.4, 0.2))
        interval = paired_rates(first, second).interval
        covered += interval.low <= 0.2 <= interval.high

    assert 930 <= covered <= 990


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 3), (4, 3)])
def test_counts_that_cannot_be_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"Got {successes} successes of {trials} trials"):
        wilson_interval(successes, trials)


def test_sides_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"Got successes \(3,\) and \(2,\)"):
        paired_rates(np.ones(3, bool), np.ones(2, bool))
