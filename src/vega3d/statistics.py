"""Bootstrap intervals over scenes, which are drawn whole, because what belongs to one scene is not independent.

Percentile method: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 5.3. It knows only what varies
among the scenes given: where none differs from another its interval would have no width, and another one stands for it
(`interval_of_a_constant`). Letters: R resamples, S scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95
LEAST_USABLE = 0.5  # share of the resamples that must have a score
LEAST_SCENES = 2  # that an interval needs
FEW_SCENES = 10  # below which percentile intervals cover less than they say
SAME = 1e-9  # resamples that differ by no more are the same but for rounding

Limits = tuple[float, float]  # the least and the largest value that a figure can have
SHARE: Limits = (0.0, 1.0)
DIFFERENCE: Limits = (-1.0, 1.0)  # of two shares


@dataclass(frozen=True)
class Interval:
    """
    Attributes:
        score: on everything; None if there is none.
        low, high: ends of the 95 % interval; None if fewer than two scenes have the score, if more than half of the
            resamples have none, or as `interval_of_a_constant` says.
    """

    score: float | None
    low: float | None
    high: float | None


def drawn(random: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """float64[R + 1, size]: how often each of `size` things is drawn in R resamples; the last row is all of them once.

    The last row carries the score itself through the same arithmetic.
    """
    draws = random.multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.concatenate([draws, np.ones((1, size))]).astype(np.float64)


def interval_of(values: np.ndarray, scenes: int, limits: Limits | None = None) -> Interval:
    """Interval of a figure.

    Args:
        values: float[R + 1], the last one being the score itself.
        scenes: how many have the figure; fewer than those that were drawn from, if some have nothing to say of it.
        limits: of the figure; None if it has none.
    """
    score = float(values[-1])
    usable = values[:-1][np.isfinite(values[:-1])]
    if scenes < LEAST_SCENES or len(usable) < LEAST_USABLE * (len(values) - 1):
        return Interval(score, None, None)
    if np.ptp(usable) <= SAME:
        return interval_of_a_constant(score, scenes, limits)
    low, high = np.quantile(usable, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(score, float(low), float(high))


def interval_of_a_constant(score: float, scenes: int, limits: Limits | None) -> Interval:
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


@lru_cache(maxsize=4)
def seeded_draws(seed: int, resamples: int, size: int) -> np.ndarray:
    """`drawn` with a generator of its own, kept: many figures are of the same scenes."""
    return drawn(np.random.default_rng(seed), resamples, size)


def mean_intervals(
    scenes: Sequence[str],
    values: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    limits: Sequence[Limits | None] | None = None,
) -> list[Interval]:
    """Means of K figures, each with its 95 % interval over scenes; all are computed on the same draws.

    Args:
        scenes: n scenes, one of each row.
        values: float[n, K]; NaN is left out.
        resamples: how many times scenes are drawn.
        seed: of the draws.
        limits: of each figure, for those that are the same in all scenes (`interval_of_a_constant`). By default
            figures in [0, 1] are shares, and others have no limits.

    Raises:
        ValueError: if the two differ in length or are empty, or there are no resamples.
    """
    if len(values) != len(scenes) or not len(scenes) or resamples < 1:
        raise ValueError(
            f"Got {len(values)} rows of {len(scenes)} scenes and {resamples} resamples; give one of each."
        )
    names, places = np.unique(np.asarray(scenes), return_inverse=True)
    members = np.equal(places, np.arange(len(names))[:, None]).astype(float)  # float[S, n]
    known = np.isfinite(values)
    sums, counts = members @ np.where(known, values, 0.0), members @ known
    weights = seeded_draws(seed, resamples, len(names))
    with np.errstate(invalid="ignore"):
        means = (weights @ sums) / (weights @ counts)  # float[R + 1, K]
    if limits is None:
        limits = [SHARE if np.all((column >= 0) & (column <= 1) | np.isnan(column)) else None for column in values.T]
    return [
        interval_of(column, scored, within) if scored else Interval(None, None, None)
        for column, scored, within in zip(means.T, scenes_with(scenes, values), limits, strict=True)
    ]


def scenes_with(scenes: Sequence[str], values: np.ndarray) -> list[int]:
    """How many scenes have each of K figures.

    Args:
        scenes: n scenes, one of each row.
        values: float[n, K], NaN where a row has no such figure.
    """
    names = np.asarray(scenes)
    return [len(np.unique(names[np.isfinite(column)])) for column in values.T]
