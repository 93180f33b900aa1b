"""Figures of all clips together with intervals over scenes, and result files."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from vega3d import __version__
from vega3d.files import write_whole
from vega3d.statistics import RESAMPLES, SHARE, Limits, mean_intervals, scene_counts

FORMAT = "vega3d-analysis-1"
LIBRARIES = ("torch", "transformers", "diffusers", "numpy")
CELL = ("family", "mode", "max_area", "timestep", "block")
COMPARED = (
    "corrected",
    "centred_cosine",
    "retrieval_1",
    "centred_retrieval_1",
    "centred_pck",
    "depth_rmse",
    "normal_mean",
)
SHARES = ("depth_delta1", "normal_11", "normal_22", "normal_30")  # besides retrieval and PCK
FACTS = (*CELL, "clip", "scene", "height", "width", "views", "left_out")


def figures_in(rows: Sequence[Mapping]) -> list[str]:
    """Names of the columns that are figures, in their order."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in FACTS]


def summarise(rows: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """Mean over clips of each figure in each cell, with 95 % intervals over scenes.

    Args:
        rows: of `correspondence_rows` or `probe_rows`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For each cell its columns, `clips`, `scenes`, `figures`: `{name: {score, low, high}}`, and `figure_scenes`: how
        many scenes have each.
    """
    cells: dict[tuple, list[Mapping]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in CELL), []).append(row)
    summary = []
    for cell, members in cells.items():
        scenes, names = [row["scene"] for row in members], figures_in(members)
        counts = {"clips": len(members), "scenes": len(set(scenes))}
        values, limits = table(members, names), [limits_of(name) for name in names]
        figures = intervals(names, scenes, values, limits, resamples, seed)
        summary.append({**dict(zip(CELL, cell, strict=True)), **counts, **figures})
    return summary


def table(rows: Sequence[Mapping], names: Sequence[str]) -> np.ndarray:
    """float[rows, names], NaN where a row has no such figure."""
    return np.array([[np.nan if row.get(name) is None else row[name] for name in names] for row in rows], float)


def limits_of(name: str) -> Limits | None:
    """Of a figure that is a share; None for one that may be anything."""
    return SHARE if name in SHARES or "retrieval" in name or "pck" in name else None


def intervals(
    names: Sequence[str],
    scenes: Sequence[str],
    values: np.ndarray,
    limits: Sequence[Limits | None],
    resamples: int,
    seed: int,
) -> dict[str, dict]:
    """`figures` and `figure_scenes` of a cell."""
    found = mean_intervals(scenes, values, resamples, seed, limits)
    return {
        "figures": {name: asdict(interval) for name, interval in zip(names, found, strict=True)},
        "figure_scenes": dict(zip(names, scene_counts(scenes, values), strict=True)),
    }


def differences(rows: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """Paired differences on the same clips: each cell of the first family minus the same cell of each control.

    A control without blocks or noise levels is compared with every one.

    Returns:
        For each pair `minus` (the control), the cell's columns, and `figures` and
        `figure_scenes` of `COMPARED`.
    """
    cells: dict[tuple, dict[str, Mapping]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in CELL), {})[row["clip"]] = row
    first = rows[0]["family"]
    found = []
    for cell, members in cells.items():
        for other, controls in cells.items():
            alike = all(theirs in (ours, None) for ours, theirs in zip(cell[1:], other[1:], strict=True))
            if cell[0] != first or other[0] == first or not alike:
                continue
            clips = sorted(members.keys() & controls.keys())
            names = [name for name in COMPARED if name in members[clips[0]] and name in controls[clips[0]]]
            ours, theirs = ([side[clip] for clip in clips] for side in (members, controls))
            values = table(ours, names) - table(theirs, names)
            no_limits = [None] * len(names)
            figures = intervals(names, [row["scene"] for row in ours], values, no_limits, resamples, seed)
            found.append({**dict(zip(CELL, cell, strict=True)), "minus": other[0], **figures})
    return found


def result_of(rows: Sequence[Mapping], kind: str, facts: Mapping, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """The values of a result file.

    Args:
        rows: of all clips.
        kind: `correspondence`, `probe` or `sweep`.
        facts: model, data, plan and command.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    versions = {"vega3d": __version__, "python": platform.python_version()}
    return {
        "format": FORMAT,
        "kind": kind,
        **facts,
        "versions": versions | {name: version(name) for name in LIBRARIES},
        "bootstrap": {"seed": seed, "resamples": resamples},
        "cells": summarise(rows, resamples, seed),
        "differences": differences(rows, resamples, seed),
        "clips": list(rows),
    }


def write_result(path: Path, result: Mapping) -> None:
    """One JSON file, whole or not at all."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, partial(Path.write_text, data=text, encoding="utf-8"))


def write_rows(path: Path, rows: Sequence[Mapping]) -> None:
    """A parquet file with one row for each clip and cell."""
    names = [*FACTS, *figures_in(rows)]
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    write_whole(path, partial(pyarrow.parquet.write_table, table))


def read_rows(path: Path) -> list[dict]:
    return pyarrow.parquet.read_table(path).to_pylist()
