"""How far off the points are that visual tokens tell, by arm: what the language model knows of space at each token.

It needs no question to be answered, and has a thousand values a clip, so that it shows differences between arms long
before scores do. Only validation rooms are asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from research.tiny.study.table import pairs
from vega3d.evaluation.report import scene_notes
from vega3d.statistics import RESAMPLES, Interval, draw, percentile_interval

POINT_FIGURES = ("depth", "turn", "ahead", "right")  # [m], [deg], [m], [m]


def point_values(
    errors: Mapping[str, np.ndarray], against: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """Mean absolute errors and their paired differences, with 95 % intervals over seeds and scenes.

    Args:
        errors: for each arm float[F, S, 4], of its F seeds on the same S scenes.
        against: arms that the others are compared with, each pair once.
        resamples: of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: if arms differ in seeds or scenes.
    """
    shapes = {values.shape for values in errors.values()}
    if len(shapes) != 1:
        raise ValueError(f"The arms have {sorted(shapes)} seeds, scenes and figures; give as many of each.")
    ((seeds, scenes, _),) = shapes
    draws = draw(scenes, (seeds,), resamples, seed)
    means = {arm: draws.means(values) for arm, values in errors.items()}

    def named(values: np.ndarray) -> dict[str, dict]:
        intervals: list[Interval] = [percentile_interval(column, scenes) for column in values.T]
        return {name: asdict(found) for name, found in zip(POINT_FIGURES, intervals, strict=True)}

    return {
        "scenes": scenes,
        "seeds": seeds,
        "errors": {arm: named(values) for arm, values in means.items()},
        "differences": {
            f"{arm} - {control}": named(means[arm] - means[control]) for arm, control in pairs(errors, against)
        },
    }


def point_table(values: Mapping) -> str:
    """Markdown of `point_values`."""
    lines = [
        f"## Points: {values['scenes']} validation scenes, {values['seeds']} seeds",
        "",
        "Mean absolute error of what visual tokens tell, with its 95 % interval; less is better. Bold differences "
        "leave out 0.",
        "",
        "| | depth [m] | camera's turn [deg] | ahead [m] | right [m] |",
        "|---|---|---|---|---|",
    ]
    for arm, found in values["errors"].items():
        lines.append(f"| {arm} | " + " | ".join(cell(found[name], "") for name in POINT_FIGURES) + " |")
    for pair, found in values["differences"].items():
        lines.append(f"| {pair} | " + " | ".join(cell(found[name], "+") for name in POINT_FIGURES) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in scene_notes({"all": values["scenes"]}))]) + "\n"


def cell(value: Mapping, sign: str) -> str:
    if value["score"] is None:
        return "-"
    if value["low"] is None:
        return f"{value['score']:{sign}.3f}"
    text = f"{value['score']:{sign}.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"**{text}**" if sign and (value["low"] > 0 or value["high"] < 0) else text
