"""Bootstrap intervals over scenes, which are drawn whole, because what belongs to one scene is not independent.

Percentile method: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 5.3. Letters: R resamples, S
scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95
LEAST_USABLE = 0.5  # share of the resamples that must have a score


@dataclass(frozen=True)
class Interval:
    """
    Attributes:
        score: on everything; None if there is none.
        low, high: ends of the 95 % interval; None with fewer than two scenes, or if more than half of the resamples
            have no score.
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


def interval_of(values: np.ndarray, scenes: int) -> Interval:
    """Interval of float[R + 1], the last one being the score itself."""
    usable = values[:-1][np.isfinite(values[:-1])]
    if scenes < 2 or len(usable) < LEAST_USABLE * (len(values) - 1):
        return Interval(float(values[-1]), None, None)
    low, high = np.quantile(usable, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(values[-1]), float(low), float(high))


@lru_cache(maxsize=4)
def seeded_draws(seed: int, resamples: int, size: int) -> np.ndarray:
    """`drawn` with a generator of its own, kept: many figures are of the same scenes."""
    return drawn(np.random.default_rng(seed), resamples, size)


def mean_intervals(
    scenes: Sequence[str], values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Means of K figures, each with its 95 % interval over scenes; all are computed on the same draws.

    Args:
        scenes: n scenes, one of each row.
        values: float[n, K]; NaN is left out.
        resamples: how many times scenes are drawn.
        seed: of the draws.

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
    return [
        interval_of(column, int(scored.sum())) if scored.any() else Interval(None, None, None)
        for column, scored in zip(means.T, (counts > 0).T, strict=True)
    ]
