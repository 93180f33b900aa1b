"""Bootstrap intervals over scenes and training seeds, paired differences, and score intervals of success rates.

Whole scenes are drawn with replacement, because what belongs to one scene is not independent (cluster bootstrap,
percentile method: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8 and 5.3). Several training
seeds are drawn likewise, each side of a comparison by itself. The bootstrap knows only what varies among the scenes
given: where all have the same value, `constant_interval` stands for it. Success rates have intervals that hold near 0
and 1 as well: those of Wilson (1927) for one rate, and of Newcombe (1998, paired, method 10) for a difference.

Letters: R resamples, S scenes, F training seeds, K metrics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95
LEAST_USABLE = 0.5  # share of the resamples that must have a score
LEAST_SCENES = 2  # that an interval needs
FEW_SCENES = 10  # below which percentile intervals cover less than they say
NORMAL = 1.959963984540054  # quantile of the normal distribution for 95 %, two-sided
SAME = 1e-9  # resamples that differ by no more are the same but for rounding

Limits = tuple[float, float]  # the least and the largest value that a metric can have
SHARE: Limits = (0.0, 1.0)


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval.

    Attributes:
        score: on everything; None if there is none.
        low, high: None if fewer than two scenes have the score, if more than half of the resamples have none, or as
            `constant_interval` says.
    """

    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """Scores of two sides on the same scenes, and whether they differ.

    Attributes:
        first, second: means over the training seeds of each side.
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


@dataclass(frozen=True)
class Draws:
    """How often each scene and each training seed is drawn.

    The last row is everything once, and so carries the score itself through the same arithmetic.

    Attributes:
        scenes: float64[R + 1, S].
        seeds: float64[R + 1, F] for each side.
    """

    scenes: np.ndarray
    seeds: tuple[np.ndarray, ...]

    def sums(self, values: Sequence[np.ndarray], side: int) -> np.ndarray:
        """float64[R + 1, K]: sums over scenes and means over seeds of F arrays float[S, K]."""
        sums = np.stack([self.scenes @ table for table in values], axis=1)  # float[R + 1, F, K]
        shares = self.seeds[side] / self.seeds[side].sum(-1, keepdims=True)
        return np.einsum("rf,rfk->rk", shares, sums)

    def means(self, values: np.ndarray) -> np.ndarray:
        """float64[R + 1, K]: means over the seeds of the first side and scenes, of float[F, S, K]."""
        seeds, scenes, _ = values.shape
        return np.einsum("rf,fsk,rs->rk", self.seeds[0], values, self.scenes) / (seeds * scenes)


@lru_cache(maxsize=4)  # many metrics are of the same scenes
def draw(scenes: int, seeds: tuple[int, ...] = (), resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """R draws of S scenes, then of the F training seeds of each side; `seed` decides them.

    Raises:
        ValueError: if there is nothing to draw, or no resamples.
    """
    if min((scenes, resamples, *seeds)) < 1:
        raise ValueError(
            f"Got {scenes} scenes, {resamples} resamples and {list(seeds)} training seeds; give one of each at least."
        )
    random = np.random.default_rng(seed)

    def drawn(size: int) -> np.ndarray:
        draws = random.multinomial(size, np.full(size, 1 / size), size=resamples)
        return np.concatenate([draws, np.ones((1, size))]).astype(np.float64)

    return Draws(drawn(scenes), tuple(drawn(size) for size in seeds))


def percentile_interval(values: np.ndarray, scenes: int, limits: Limits | None = None) -> Interval:
    """The 95 % interval of one metric.

    Args:
        values: float[R + 1], the last one being the score itself; NaN where a resample has none.
        scenes: how many have the metric; fewer than those that were drawn from, if some have nothing to say of it.
        limits: of the metric; None if it has none.
    """
    score = float(values[-1])
    usable = values[:-1][np.isfinite(values[:-1])]
    if scenes < LEAST_SCENES or len(usable) < LEAST_USABLE * (len(values) - 1):
        return Interval(score, None, None)
    if np.ptp(usable) <= SAME:
        return constant_interval(score, scenes, limits)
    low, high = np.quantile(usable, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(score, float(low), float(high))


def constant_interval(score: float, scenes: int, limits: Limits | None) -> Interval:
    """Exact interval where all scenes have the same value; resamples of them would say that there is no doubt at all.

    At a limit, where all are right or all are wrong: at least the share p = 0.025^(1 / S) of all scenes is so, and the
    others may lie at the other limit. For a share that is the interval of Clopper and Pearson. Anywhere else it is by
    the test of signs, which needs six scenes: that of the median, which has no width. With fewer there is none.
    """
    tail = (1 - COVERAGE) / 2
    for end, other in (limits, limits[::-1]) if limits is not None else ():
        if abs(score - end) <= SAME:
            reached = end + (1 - tail ** (1 / scenes)) * (other - end)
            return Interval(score, min(score, reached), max(score, reached))
    known = score if 0.5**scenes <= tail else None
    return Interval(score, known, known)


def paired_difference(first: np.ndarray, second: np.ndarray, scenes: int, most: float = 1.0) -> Difference:
    """The difference of two scores from 0 to `most`, from those float[R + 1] of both sides on the same draws."""
    values = second - first
    interval = percentile_interval(values, scenes, (-most, most))
    usable = values[:-1][np.isfinite(values[:-1])]
    better = None if interval.low is None else float(np.mean((usable > 0) + 0.5 * (usable == 0)))
    return Difference(float(first[-1]), float(second[-1]), interval, better, scenes)


def mean_intervals(
    scenes: Sequence[str],
    values: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    limits: Sequence[Limits | None] | None = None,
) -> list[Interval]:
    """Means of K metrics with their 95 % intervals over scenes, all computed on the same draws.

    Args:
        scenes: name of the scene of each of n rows.
        values: float[n, K]; NaN is left out.
        resamples: R, how many times everything is drawn.
        seed: decides the draws.
        limits: of each metric, for those that are the same in all scenes (`constant_interval`). By default metrics in
            [0, 1] are shares, and others have no limits.

    Raises:
        ValueError: if scenes and values differ in length or are empty, or there are no resamples.
    """
    if len(values) != len(scenes) or not len(scenes) or resamples < 1:
        raise ValueError(
            f"Got {len(values)} rows of {len(scenes)} scenes and {resamples} resamples; give one of each."
        )
    names, places = np.unique(np.asarray(scenes), return_inverse=True)
    members = np.equal(places, np.arange(len(names))[:, None]).astype(float)  # float[S, n]
    known = np.isfinite(values)
    sums, counts = members @ np.where(known, values, 0.0), members @ known
    weights = draw(len(names), (), resamples, seed).scenes
    with np.errstate(invalid="ignore"):
        means = (weights @ sums) / (weights @ counts)  # float[R + 1, K]
    if limits is None:
        limits = [SHARE if np.all((column >= 0) & (column <= 1) | np.isnan(column)) else None for column in values.T]
    return [
        percentile_interval(column, scored, within) if scored else Interval(None, None, None)
        for column, scored, within in zip(means.T, scene_counts(scenes, values), limits, strict=True)
    ]


def scene_counts(scenes: Sequence[str], values: np.ndarray) -> list[int]:
    """How many scenes have each of K metrics, float[n, K] with NaN where a row has no such metric."""
    names = np.asarray(scenes)
    return [len(np.unique(names[np.isfinite(column)])) for column in values.T]


def wilson_interval(successes: int, trials: int) -> Interval:
    """The share of successes among independent trials, with its 95 % interval by Wilson.

    Raises:
        ValueError: unless 0 <= successes <= trials, and there is a trial.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"Got {successes} successes of {trials} trials; give at least one trial, and no more successes."
        )
    return Interval(*wilson_limits(successes, trials))


def wilson_limits(successes: int, trials: int) -> tuple[float, float, float]:
    """A rate, and the ends of its interval."""
    rate, extra = successes / trials, NORMAL**2 / trials
    centre = (rate + extra / 2) / (1 + extra)
    half = math.sqrt(rate * (1 - rate) * extra + extra**2 / 4) / (1 + extra)
    return rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def paired_rates(first: np.ndarray, second: np.ndarray) -> Difference:
    """The difference of two success rates on the same trials, with its 95 % interval by Newcombe.

    The interval has a width also where both sides succeed in the same trials, as those of a bootstrap have not.

    Args:
        first, second: bool[S], whether each side succeeded in trial s.

    Raises:
        ValueError: if they differ in length or are empty.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"Got successes {first.shape} and {second.shape}; give those of both sides, one a trial.")
    trials = len(first)
    (one, one_low, one_high), (other, other_low, other_high) = (
        wilson_limits(int(side.sum()), trials) for side in (first, second)
    )
    difference = other - one
    correlation = success_correlation(first, second)

    def distance(up: float, down: float) -> float:
        return math.sqrt(max(0.0, up**2 - 2 * correlation * up * down + down**2))

    low = difference - distance(other - other_low, one_high - one)
    high = difference + distance(other_high - other, one - one_low)
    return Difference(one, other, Interval(difference, low, high), None, trials)


def success_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two bool[S], 0 if one is constant; a positive one is corrected for continuity, as by Newcombe."""
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    sides = (both + only_first) * (both + only_second) * (neither + only_first) * (neither + only_second)
    if not sides:
        return 0.0
    product = both * neither - only_first * only_second
    return (max(0.0, product - len(first) / 2) if product > 0 else product) / math.sqrt(sides)
