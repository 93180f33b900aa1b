"""Figures of all clips together with intervals over scenes, result files, and the tables that are printed."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from vega3d import __version__
from vega3d.statistics import RESAMPLES, mean_interval
from vega3d.synthetic.resumable import write_whole

FORMAT = "vega3d-analysis-1"
FEW_SCENES = 10  # below which percentile intervals cover less than they say
LIBRARIES = ("torch", "transformers", "diffusers", "numpy")
CELL = ("family", "mode", "max_area", "timestep", "block")
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
        For each cell its columns, `clips`, `scenes`, and `figures`: `{name: {score, low, high}}`.
    """
    cells: dict[tuple, list[Mapping]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in CELL), []).append(row)
    summary = []
    for cell, members in cells.items():
        scenes = [row["scene"] for row in members]
        figures = {}
        for name in figures_in(members):
            values = [np.nan if row.get(name) is None else row[name] for row in members]
            figures[name] = asdict(mean_interval(scenes, values, resamples, seed))
        counts = {"clips": len(members), "scenes": len(set(scenes))}
        summary.append({**dict(zip(CELL, cell, strict=True)), **counts, "figures": figures})
    return summary


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


def cell_name(cell: Mapping) -> str:
    """Such as `wan, frame, block 20, step 300`."""
    parts = [cell["family"]]
    if cell["family"] not in ("mean", "position"):
        parts.append(cell["mode"])
    parts += [f"block {cell['block']}"] if cell["block"] is not None else []
    parts += [f"step {cell['timestep']}"] if cell["timestep"] is not None else []
    return ", ".join(parts)


def shown(figure: Mapping | None, digits: int = 3) -> str:
    """`0.712 [0.690, 0.733]`; `-` for what has no value, and no brackets for what has no interval."""
    if figure is None or figure["score"] is None:
        return "-"
    value = f"{figure['score']:.{digits}f}"
    return value if figure["low"] is None else f"{value} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def table_of(cells: Iterable[Mapping], columns: Mapping[str, str], digits: int = 3) -> list[str]:
    """Lines of a table: one row a cell; `columns` maps headings to names of figures."""
    cells = list(cells)
    sizes = len({cell["max_area"] for cell in cells}) > 1
    rows = [["features", *columns]]
    for cell in cells:
        name = cell_name(cell) + (f", {cell['max_area']} px" if sizes else "")
        rows.append([name, *(shown(cell["figures"].get(figure), digits) for figure in columns.values())])
    return aligned(rows)


CORRESPONDENCE_COLUMNS = {
    "cosine": "cosine",
    "chance": "chance",
    "corrected": "corrected",
    "centred": "centred_cosine",
    "chance (centred)": "centred_chance",
}
RETRIEVAL_COLUMNS = {
    "retrieval@1": "retrieval_1",
    "@5": "retrieval_5",
    "centred @1": "centred_retrieval_1",
    "@5 ": "centred_retrieval_5",
}
PCK_COLUMNS = {
    "PCK": "centred_pck",
    "0-15 deg": "centred_pck_0_15",
    "15-30": "centred_pck_15_30",
    "30-60": "centred_pck_30_60",
    "60+": "centred_pck_60_180",
}
DEPTH_COLUMNS = {"RMSE [m]": "depth_rmse", "abs rel": "depth_abs_rel", "delta1": "depth_delta1"}
NORMAL_COLUMNS = {
    "mean [deg]": "normal_mean",
    "median": "normal_median",
    "< 11.25": "normal_11",
    "< 22.5": "normal_22",
    "< 30": "normal_30",
}


def correspondence_table(result: Mapping) -> str:
    """Three tables: similarity, retrieval, and PCK by view angle, each beside what chance gives."""
    cells = result["cells"]
    figures = cells[0]["figures"]
    random_choice = ", ".join(
        f"{name} {shown(figures[figure])}"
        for name, figure in (("@1", "retrieval_1_chance"), ("@5", "retrieval_5_chance"), ("PCK", "pck_chance"))
    )
    return "\n".join(
        [
            head(result),
            "",
            "similarity of the features of one voxel in two views; chance: of different voxels of the same views",
            *table_of(cells, CORRESPONDENCE_COLUMNS),
            "",
            "the true match is the nearest neighbour, or among the five nearest, of all voxels of the other view",
            *table_of(cells, RETRIEVAL_COLUMNS),
            "",
            "PCK (centred features): the nearest within 0.1 of the frame's longer side, by angle between the views",
            *table_of(cells, PCK_COLUMNS),
            f"a random choice: {random_choice}",
            *notes(result),
        ]
    )


def probe_table(result: Mapping) -> str:
    return "\n".join(
        [
            head(result),
            "",
            "depth",
            *table_of(result["cells"], DEPTH_COLUMNS),
            "",
            "surface normals",
            *table_of(result["cells"], NORMAL_COLUMNS),
            *notes(result),
        ]
    )


def head(result: Mapping) -> str:
    cell = result["cells"][0]
    counts = f"{cell['clips']} clips of {cell['scenes']} scenes"
    return f"{result['model']}: {counts}; means over clips, 95 % intervals over scenes"


def notes(result: Mapping) -> list[str]:
    """What a reader of the figures has to know."""
    left_out = {row["clip"]: row["left_out"] for row in result["clips"] if row["left_out"]}
    lines = []
    if left_out:
        lines.append(
            f"note: frames without pose or depth were left out: {sum(left_out.values())} in {len(left_out)} clips"
        )
    scenes = result["cells"][0]["scenes"]
    if scenes < 2:
        lines.append("note: one scene has no interval; give more")
    elif scenes < FEW_SCENES:
        lines.append(f"note: intervals from {scenes} scenes are too narrow; give {FEW_SCENES} or more")
    if result.get("notice"):
        lines.append(f"note: {result['notice']}")
    return lines
