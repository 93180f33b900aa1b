"""Bootstrap intervals over scenes, which are drawn whole, because what belongs to one scene is not independent.

Percentile method: Davison and Hinkley, Bootstrap Methods and their Application, 1997, 5.3. Letters: R resamples, S
scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


def mean_interval(
    scenes: Sequence[str], values: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of values, each of a scene, with its 95 % interval over scenes.

    Args:
        scenes: the scene of each value.
        values: float[n]; NaN is left out.
        resamples: how many times scenes are drawn.
        seed: of the draws.

    Raises:
        ValueError: if the two differ in length, or there are no resamples.
    """
    scores = np.asarray(values, float)
    if len(scores) != len(scenes) or resamples < 1:
        raise ValueError(
            f"Got {len(scores)} values of {len(scenes)} scenes and {resamples} resamples; give one of each."
        )
    known = np.isfinite(scores)
    if not known.any():
        return Interval(None, None, None)
    names, places = np.unique(np.asarray(scenes)[known], return_inverse=True)
    sums, counts = np.bincount(places, scores[known]), np.bincount(places)
    weights = drawn(np.random.default_rng(seed), resamples, len(names))
    return interval_of((weights @ sums) / (weights @ counts), len(names))
