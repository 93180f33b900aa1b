"""Which cell of a sweep a model reads, and whether a generator's features beat those of its controls (gate G2)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from vega3d.analysis.summary import CELL, FORMAT, limits_of
from vega3d.statistics import RESAMPLES, mean_intervals, scene_counts

MEASURES = {"depth_rmse": -1, "centred_retrieval_1": 1}  # -1: less is better
BASELINES = ("mean", "position")  # of the probes; no control

Cell = tuple  # the values of `CELL`


def best_cell(rows: Sequence[Mapping], family: str, mode: str | None = None, sweep: str = "The sweep") -> Cell:
    """The cell with the smallest sum of its ranks in both measures; of equals the one with the better depth.

    Args:
        rows: of a sweep with probes, a row for each clip and cell.
        family: of which the cell is to be.
        mode: likewise; any if None.
        sweep: how an error calls it.

    Raises:
        ValueError: if the sweep has no such cell with both measures.
    """
    clips: dict[Cell, list[list[float]]] = {}
    for row in rows:
        if row["family"] == family and mode in (None, row["mode"]) and is_measured(row):
            clips.setdefault(tuple(row[name] for name in CELL), []).append([row[name] for name in MEASURES])
    if not clips:
        wanted = family if mode is None else f"{family}, mode {mode}"
        raise ValueError(f"{sweep} has no cell of {wanted} with {' and '.join(MEASURES)}. Sweep with --probes.")
    cells = list(clips)
    signs = np.array(list(MEASURES.values()))
    means = signs * np.array([np.mean(clips[cell], axis=0) for cell in cells])
    ranks = (means[:, None] < means[None]).sum(axis=1).sum(axis=1)  # cells that are better, over both measures
    return cells[min(range(len(cells)), key=lambda place: (ranks[place], -means[place, 0]))]


def choice_of(
    rows: Sequence[Mapping], mode: str, other_sweeps: Mapping[str, Sequence[Mapping]], resamples: int = RESAMPLES
) -> dict:
    """The cell to read, and gate G2: is it better than the best of each control, and of each other generator?

    Args:
        rows: of a sweep with probes; its first family is the generator's own, the others are controls.
        mode: of the cell.
        other_sweeps: rows of other generators' sweeps over the same clips, by a name of each.
        resamples: of the bootstrap.

    Returns:
        `cells`, for `own` and each control and other generator the best one; `own_against`, what `cells_compared` says
        of each pair; `is_better`, whether all of it speaks for the own.

    Raises:
        ValueError: if there is nothing to compare with, or a control and another sweep share a name; as `best_cell`
            and `cells_compared`.
    """
    own, controls = own_and_controls(rows, other_sweeps)
    shared = sorted({"own", *controls} & other_sweeps.keys())
    if shared:
        raise ValueError(
            f"--against names {', '.join(shared)}, as a family of the sweep is called. Choose other names."
        )
    chosen = {"own": best_cell(rows, own, mode)}
    compared = {}
    for name, other, family in (
        *((family, rows, family) for family in controls),
        *((name, other, other[0]["family"]) for name, other in other_sweeps.items()),
    ):
        chosen[name] = best_cell(other, family, sweep="The sweep" if other is rows else name)
        compared[name] = cells_compared(rows, chosen["own"], other, chosen[name], resamples)
    return {
        "format": FORMAT,
        "kind": "choice",
        "cells": {name: dict(zip(CELL, cell, strict=True)) for name, cell in chosen.items()},
        "own_against": compared,
        "is_better": all(found["is_better"] for pair in compared.values() for found in pair.values()),
    }


def own_and_controls(rows: Sequence[Mapping], other_sweeps: Mapping[str, Sequence[Mapping]]) -> tuple[str, list[str]]:
    """The generator's own family and the controls with both measures; raises ValueError, naming what is lacking."""
    empty = [name for name, found in {"the sweep": rows, **other_sweeps}.items() if not found]
    if empty:
        raise ValueError(f"There are no clips in {', '.join(empty)}. Sweep again.")
    own = rows[0]["family"]
    given = [family for family in dict.fromkeys(row["family"] for row in rows) if family not in (own, *BASELINES)]
    whole = {row["family"] for row in rows if is_measured(row)}
    controls = [family for family in given if family in whole]
    lacking = [] if own in whole else [("no probes", "--probes")]
    lacking += [] if given or other_sweeps else [("no controls to compare with", "--controls")]
    if not lacking and not controls and not other_sweeps:
        lacking = [(f"no probes of its controls ({', '.join(given)})", "--probes and --controls")]
    if lacking:
        what, options = (" and ".join(words) for words in zip(*lacking, strict=True))
        instead = (
            "" if given or other_sweeps else " For another generator's sweep in place of controls give --against."
        )
        raise ValueError(f"The sweep has {what}. Sweep with {options}.{instead}")
    return own, controls


def is_measured(row: Mapping) -> bool:
    return all(row.get(name) is not None for name in MEASURES)


def cells_compared(
    first: Sequence[Mapping], cell: Cell, second: Sequence[Mapping], other: Cell, resamples: int = RESAMPLES
) -> dict[str, dict]:
    """For each measure both cells' means and the difference on the same clips, with 95 % intervals over scenes.

    Args:
        first, second: rows of sweeps over the same clips.
        cell, other: of `first` and of `second`.
        resamples: of the bootstrap.

    Returns:
        For each measure `first`, `second` and `difference` (`score`, `low`, `high`), `scenes`, how many there are, and
        `is_better`: the difference is in favour of the first, and its interval leaves out 0.

    Raises:
        ValueError: if the sweeps are not of the same clips.
    """
    ours, theirs = rows_of(first, cell), rows_of(second, other)
    if ours.keys() != theirs.keys():
        raise ValueError(f"The sweeps are of {len(ours)} and {len(theirs)} clips, but must be of the same.")
    scenes = [row["scene"] for row in ours.values()]
    found = {}
    for name, sign in MEASURES.items():
        values = np.array([[ours[clip][name], theirs[clip][name]] for clip in ours], float)
        columns = np.column_stack([values, values[:, 0] - values[:, 1]])
        limits = [limits_of(name), limits_of(name), None]
        intervals = mean_intervals(scenes, columns, resamples, limits=limits)
        ends = [intervals[2].low, intervals[2].high]
        found[name] = {
            **dict(zip(("first", "second", "difference"), map(asdict, intervals), strict=True)),
            "scenes": min(scene_counts(scenes, columns)),
            "is_better": None not in ends and all(sign * end > 0 for end in ends if end is not None),
        }
    return found


def rows_of(rows: Sequence[Mapping], cell: Cell) -> dict[str, Mapping]:
    """The row of each clip in one cell."""
    return {row["clip"]: row for row in rows if tuple(row[name] for name in CELL) == cell}
