"""How small a difference between two arms the seeds at hand can resolve, and how many seeds a smaller one needs.

The smallest difference that a two-sided test at 5 % finds with a chance of 80 % is

    (t(0.975; F - 1) + t(0.8; F - 1)) * sqrt(v_seeds / F + v_scenes)

(Bloom, Minimum Detectable Effects, Evaluation Review 19, 1995, 547-556), with quantiles t of Student's distribution, F
seeds, the variance v_seeds of the paired difference between seeds on the same scenes, and the variance v_scenes that
other scenes bring to all seeds alike, which no number of seeds takes away. With few seeds v_seeds is poorly known, and
so is what follows from it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vega3d.extras import optional_module
from vega3d.statistics import COVERAGE, LEAST_USABLE

CHANCE = 0.8  # that a difference which is there is found
POINTS = (1, 2, 4)
SEEDS = np.arange(2, 1000)  # that are considered


def power_values(differences: np.ndarray) -> dict[str, Any] | None:
    """What paired differences float[F, R + 1] of F seeds, on drawn scenes and at last on all, tell of smaller ones.

    Returns:
        `seed_deviation` and `scene_deviation`, the roots of the two variances; `resolved`, the smallest difference
        that these seeds resolve; `seeds`, how many each of `POINTS` points needs, None if more than are considered.
        None for one seed, which says nothing of others, and where more than half of the draws have no difference.
    """
    count, usable = len(differences), np.isfinite(differences[:, :-1]).all(axis=0)
    if count < SEEDS[0] or usable.mean() < LEAST_USABLE:
        return None
    drawn = differences[:, :-1][:, usable]
    of_seeds = float(differences[:, -1].var(ddof=1))
    # What scenes bring to single seeds is in the spread between seeds already, so it is taken off.
    single, mean = drawn.var(axis=1).mean(), drawn.mean(axis=0).var()
    of_scenes = max(float(count * mean - single) / (count - 1), 0.0)
    student = optional_module("scipy.stats").t
    quantiles = student.ppf((1 + COVERAGE) / 2, SEEDS - 1) + student.ppf(CHANCE, SEEDS - 1)
    resolved = quantiles * np.sqrt(of_seeds / SEEDS + of_scenes)
    enough = {points: SEEDS[resolved <= points / 100] for points in POINTS}
    return {
        "seed_deviation": of_seeds**0.5,
        "scene_deviation": of_scenes**0.5,
        "resolved": float(resolved[count - SEEDS[0]]),
        "seeds": {str(points): int(seeds[0]) if len(seeds) else None for points, seeds in enough.items()},
    }


def power_table(values: Mapping[str, Mapping | None]) -> list[str]:
    """Markdown of `power_values` by pair of arms."""
    known = {pair: found for pair, found in values.items() if found is not None}
    if not known:
        return ["One seed, or so few rooms, say nothing of the smallest difference that can be resolved.", ""]
    lines = [
        "The smallest difference of `spatial_macro` that these seeds resolve (two-sided 95 %, power 80 %), in points, "
        "and how many seeds smaller ones need: (t(0.975; F - 1) + t(0.8; F - 1)) sqrt(seeds^2 / F + scenes^2) with F "
        "seeds (Bloom, Evaluation Review 19, 1995, 547-556). `seeds` and `scenes` are the standard deviations of the "
        "paired difference between seeds, and of its mean over what scenes bring to all seeds.",
        "",
        f"| | seeds | scenes | resolved | {' | '.join(f'seeds for {points}' for points in POINTS)} |",
        f"|---|---|---|---|{'---|' * len(POINTS)}",
    ]
    for pair, found in known.items():
        figures = [f"{100 * found[name]:.2f}" for name in ("seed_deviation", "scene_deviation", "resolved")]
        needed = [f"over {SEEDS[-1]}" if seeds is None else str(seeds) for seeds in found["seeds"].values()]
        lines.append(f"| {pair} | {' | '.join([*figures, *needed])} |")
    return [*lines, ""]
