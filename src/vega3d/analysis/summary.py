"""Metrics of all clips together, with intervals over scenes: result files and the tables that are printed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vega3d.analysis.settings import Setting
from vega3d.extras import optional_module
from vega3d.files import write_json, write_whole
from vega3d.runs import versions
from vega3d.statistics import FEW_SCENES, LEAST_SCENES, RESAMPLES, SHARE, Limits, mean_intervals, scene_counts
from vega3d.tables import aligned

FORMAT = "vega3d-analysis-1"
LIBRARIES = ("torch", "transformers", "diffusers", "numpy")
COMPARED = (
    "corrected",
    "centred_cosine",
    "retrieval_1",
    "centred_retrieval_1",
    "centred_pck",
    "depth_rmse",
    "normal_mean",
    "points_error",
    "turn_error",
    "turn_first_error",
    "translation_error",
    "translation_first_error",
    "pose_auc30",
    "instances_auc",
    "instances_auc_across",
    "permanence_error",
)
SHARES = ("depth_delta1", "normal_11", "normal_22", "normal_30")  # besides retrieval, PCK and AUC
COLUMNS = (*Setting._fields, "clip", "scene", "height", "width", "views", "left_out")  # of rows, besides metrics
OF_OBJECTS = {"instances": "instances_auc_across", "permanence": "permanence_error"}  # readings that need objects
BEST = 5  # settings shown for each metric of a sweep


class Metric(NamedTuple):
    """How a metric of a sweep is shown."""

    title: str  # what axes and tables call it
    chance: str | None = None  # name of the metric that holds what chance reaches, if there is one
    lower_is_better: bool = False  # true of errors, false of accuracies
    digits: int = 2  # after the point, in heat maps
    scale: float = 1.0  # 100 for shares that are shown in percent


METRICS = {
    "corrected": Metric("correspondence, corrected for chance"),
    "cosine": Metric("cosine of corresponding voxels", "chance"),
    "centred_cosine": Metric("cosine of corresponding voxels, centred", "centred_chance"),
    "centred_retrieval_1": Metric("retrieval at 1, centred [%]", "retrieval_1_chance", digits=1, scale=100),
    "depth_rmse": Metric("depth probe, RMSE [m]", lower_is_better=True),
    "normal_mean": Metric("normal probe, mean angle [deg]", lower_is_better=True, digits=1),
    "points_error": Metric("point probe, mean error [m]", lower_is_better=True),
    "turn_error": Metric("turn to the previous view, mean error [deg]", lower_is_better=True, digits=1),
    "turn_first_error": Metric("turn since the first view, mean error [deg]", lower_is_better=True, digits=1),
    "translation_error": Metric("translation to the previous view, mean error [m]", lower_is_better=True),
    "translation_first_error": Metric("translation since the first view, mean error [m]", lower_is_better=True),
    "pose_auc30": Metric("relative pose, AUC at 30 degrees"),
    "instances_auc": Metric("tokens of one object, ROC AUC within a view"),
    "instances_auc_across": Metric("tokens of one object, ROC AUC across views"),
    "permanence_error": Metric("object out of view, mean error of its place [m]", lower_is_better=True),
}


def metric_names(rows: Sequence[Mapping]) -> list[str]:
    """Names of the columns that are metrics, in their order."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]


def summarise(rows: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """Mean over clips of each metric in each setting, with 95 % intervals over scenes (bootstrap).

    Returns:
        For each setting its columns, `clips`, `scenes`, `figures`: `{metric: {score, low, high}}`, and
        `figure_scenes`: how many scenes have each metric.
    """
    settings: dict[Setting, list[Mapping]] = {}
    for row in rows:
        settings.setdefault(Setting.of_row(row), []).append(row)
    summary = []
    for setting, members in settings.items():
        scenes, names = [row["scene"] for row in members], metric_names(members)
        counts = {"clips": len(members), "scenes": len(set(scenes))}
        values, limits = metric_values(members, names), [metric_limits(name) for name in names]
        summary.append(setting._asdict() | counts | intervals(names, scenes, values, limits, resamples, seed))
    return summary


def metric_values(rows: Sequence[Mapping], names: Sequence[str]) -> np.ndarray:
    """float[rows, names], NaN where a row has no such metric."""
    return np.array([[np.nan if row.get(name) is None else row[name] for name in names] for row in rows], float)


def metric_limits(name: str) -> Limits | None:
    """The limits of a metric that is a share; None for one that may be anything."""
    return SHARE if name in SHARES or any(word in name for word in ("retrieval", "pck", "auc")) else None


def intervals(
    names: Sequence[str],
    scenes: Sequence[str],
    values: np.ndarray,
    limits: Sequence[Limits | None],
    resamples: int,
    seed: int,
) -> dict[str, dict]:
    """`figures` and `figure_scenes` of a setting."""
    found = mean_intervals(scenes, values, resamples, seed, limits)
    return {
        "figures": {name: asdict(interval) for name, interval in zip(names, found, strict=True)},
        "figure_scenes": dict(zip(names, scene_counts(scenes, values), strict=True)),
    }


def differences(rows: Sequence[Mapping], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """Paired differences on the same clips: each setting of the first family minus the same setting of each control.

    A control without blocks or noise levels is compared with every one.

    Returns:
        For each pair the setting's columns, `minus` (the control), and `figures` and `figure_scenes` of `COMPARED`.
    """
    settings: dict[Setting, dict[str, Mapping]] = {}
    for row in rows:
        settings.setdefault(Setting.of_row(row), {})[row["clip"]] = row
    first = rows[0]["family"]
    found = []
    for setting, members in settings.items():
        for other, controls in settings.items():
            alike = all(theirs in (ours, None) for ours, theirs in zip(setting[1:], other[1:], strict=True))
            if setting.family != first or other.family == first or not alike:
                continue
            clips = sorted(members.keys() & controls.keys())
            names = [name for name in COMPARED if name in members[clips[0]] and name in controls[clips[0]]]
            ours, theirs = ([side[clip] for clip in clips] for side in (members, controls))
            values = metric_values(ours, names) - metric_values(theirs, names)
            scenes = [row["scene"] for row in ours]
            measured = intervals(names, scenes, values, [None] * len(names), resamples, seed)
            found.append({**setting._asdict(), "minus": other.family, **measured})
    return found


def make_result(
    rows: Sequence[Mapping], kind: str, metadata: Mapping, resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """The values of a result file of a kind (`correspondence`, `probe`, `sweep`), from the rows of all clips.

    `metadata` has model, data, plan and command, and of probes their readings.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        **metadata,
        "versions": versions(*LIBRARIES),
        "bootstrap": {"seed": seed, "resamples": resamples},
        "cells": summarise(rows, resamples, seed),
        "differences": differences(rows, resamples, seed),
        "clips": list(rows),
    }


def write_result(path: Path, result: Mapping) -> None:
    """One JSON file, whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)


def write_rows(path: Path, rows: Sequence[Mapping]) -> None:
    """A parquet file with one row for each clip and setting."""
    pyarrow, parquet = optional_module("pyarrow"), optional_module("pyarrow.parquet")
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in [*COLUMNS, *metric_names(rows)]})
    write_whole(path, partial(parquet.write_table, table))


def read_rows(path: Path) -> list[dict]:
    return optional_module("pyarrow.parquet").read_table(path).to_pylist()


def shown(value: Mapping | None, digits: int = 3, scale: float = 1.0) -> str:
    """`0.712 [0.690, 0.733]`; `-` for what has no value, and no brackets for what has no interval."""
    if value is None or value["score"] is None:
        return "-"
    score, low, high = (None if value[end] is None else scale * value[end] for end in ("score", "low", "high"))
    return f"{score:.{digits}f}" + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def scenes_behind(setting: Mapping, metrics: Iterable[str]) -> str:
    """How many scenes have these metrics, such as `12`, or `9-12` where they differ; `-` for none."""
    counts = [setting["figure_scenes"].get(metric) for metric in metrics]
    known = sorted({count for count in counts if count})
    return "-".join(map(str, dict.fromkeys((known[0], known[-1])))) if known else "-"


def setting_name(setting: Mapping, settings: Iterable[Mapping] = ()) -> str:
    """Such as `wan, frame, block 20, step 300`, and the size [px^2] if others among `settings` have another."""
    sizes = {other["max_area"] for other in settings}
    return Setting.of_row(setting).name + (f", {setting['max_area']} px" if len(sizes) > 1 else "")


def metric_table(settings: Sequence[Mapping], columns: Mapping[str, str]) -> list[str]:
    """Lines of a table: one row a setting; `columns` maps headings to names of metrics."""
    rows = [["features", *columns, "scenes"]]
    for setting in settings:
        values = [shown(setting["figures"].get(metric)) for metric in columns.values()]
        rows.append([setting_name(setting, settings), *values, scenes_behind(setting, columns.values())])
    return aligned(list(dict.fromkeys(map(tuple, rows))))  # baselines are the same in several modes


# For each kind of result its tables by caption: the name of a metric for each heading. Then the paired differences.
TABLES: dict[str, dict[str, dict[str, str]]] = {
    "correspondence": {
        "similarity of the features of one voxel in two views; chance: of different voxels of the same views": {
            "cosine": "cosine",
            "chance": "chance",
            "corrected": "corrected",
            "centred": "centred_cosine",
            "chance (centred)": "centred_chance",
        },
        "the true match is the nearest neighbour, or among the five nearest, of all voxels of the other view": {
            "retrieval@1": "retrieval_1",
            "@5": "retrieval_5",
            "centred @1": "centred_retrieval_1",
            "@5 ": "centred_retrieval_5",
        },
        "PCK (centred features): the nearest within 0.1 of the frame's longer side, by angle between the views": {
            "PCK": "centred_pck",
            "0-15 deg": "centred_pck_0_15",
            "15-30": "centred_pck_15_30",
            "30-60": "centred_pck_30_60",
            "60+": "centred_pck_60_180",
        },
    },
    "probe": {
        "depth": {"RMSE [m]": "depth_rmse", "abs rel": "depth_abs_rel", "delta1": "depth_delta1"},
        "surface normals": {
            "mean [deg]": "normal_mean",
            "median": "normal_median",
            "< 11.25": "normal_11",
            "< 22.5": "normal_22",
            "< 30": "normal_30",
        },
        "points in the first camera's axes": {"mean [m]": "points_error", "RMSE [m]": "points_rmse"},
        "motion of the camera, to the previous view and since the first": {
            "turn [deg]": "turn_error",
            "since first": "turn_first_error",
            "translation [m]": "translation_error",
            "since first ": "translation_first_error",
        },
        "relative pose of pairs of views": {
            "AUC@30": "pose_auc30",
            "rotation [deg]": "pose_rotation_error",
            "direction [deg]": "pose_direction_error",
        },
        "objects: are two tokens of one (ROC AUC), and where is one that is out of view": {
            "within a view": "instances_auc",
            "across views": "instances_auc_across",
            "out of view [m]": "permanence_error",
        },
    },
}
DIFFERENCES = {
    "correspondence": {
        "corrected": "corrected",
        "centred": "centred_cosine",
        "centred @1": "centred_retrieval_1",
        "PCK": "centred_pck",
    },
    "probe": {
        "depth [m]": "depth_rmse",
        "normals [deg]": "normal_mean",
        "points [m]": "points_error",
        "turn [deg]": "turn_error",
        "since first": "turn_first_error",
        "translation [m]": "translation_error",
        "AUC@30": "pose_auc30",
        "objects across": "instances_auc_across",
        "out of view [m]": "permanence_error",
    },
}
RANDOM_CHOICE = {"@1": "retrieval_1_chance", "@5": "retrieval_5_chance", "PCK": "pck_chance"}


def result_table(result: Mapping) -> str:
    """The tables of a result of `correspondence` or `probe`, and the paired differences from its controls."""
    settings, kind = result["cells"], result["kind"]
    lines = [head(result)]
    for caption, columns in TABLES[kind].items():
        if measured := measured_columns(settings, columns):
            lines += ["", caption, *metric_table(settings, measured)]
    if kind == "correspondence":
        metrics = settings[0]["figures"]
        lines.append("a random choice: " + ", ".join(f"{k} {shown(metrics[v])}" for k, v in RANDOM_CHOICE.items()))
    columns = measured_columns(result["differences"], DIFFERENCES[kind])
    return "\n".join([*lines, *difference_lines(result, columns), *notes(result)])


def measured_columns(settings: Sequence[Mapping], columns: Mapping[str, str]) -> dict[str, str]:
    """Those columns whose metric any setting has."""
    known = {name for setting in settings for name, value in setting["figures"].items() if value["score"] is not None}
    return {heading: metric for heading, metric in columns.items() if metric in known}


def sweep_table(result: Mapping, output: Path) -> str:
    """The best settings by each metric, with the controls below them."""
    settings = result["cells"]
    own = result["plan"]["families"][0]
    lines = [head(result)]
    for name, metric in METRICS.items():
        measured = [setting for setting in settings if setting["figures"].get(name, {}).get("score") is not None]
        if not measured:
            continue
        sign = 1 if metric.lower_is_better else -1
        ordered = sorted(measured, key=lambda setting: sign * setting["figures"][name]["score"])
        best = [setting for setting in ordered if setting["family"] == own][:BEST]
        others = {setting["family"]: setting for setting in reversed(ordered) if setting["family"] != own}
        wanted = [name, *([metric.chance] if metric.chance else [])]
        digits = 3 if metric.scale == 1 else metric.digits
        table = [["", metric.title, *(["chance"] if metric.chance else []), "scenes"]]
        for setting in [*best, *others.values()]:
            values = [shown(setting["figures"].get(column), digits, metric.scale) for column in wanted]
            table.append([setting_name(setting, settings), *values, scenes_behind(setting, [name])])
        lines += ["", *aligned(table)]
    lines += ["", f"the best {BEST} settings, and the best of each control; all settings and pictures are in {output}"]
    return "\n".join([*lines, *notes(result)])


def difference_lines(result: Mapping, columns: Mapping[str, str]) -> list[str]:
    """A table of the paired differences from controls and baselines, if there are any."""
    if not result["differences"]:
        return []
    rows = [["difference on the same clips", *columns, "scenes"]]
    for pair in result["differences"]:
        values = [shown(pair["figures"].get(metric)) for metric in columns.values()]
        rows.append([f"{setting_name(pair)} - {pair['minus']}", *values, scenes_behind(pair, columns.values())])
    return ["", *aligned(rows)]


def head(result: Mapping) -> str:
    """The first line of every table."""
    first = result["cells"][0]
    counts = f"{first['clips']} clips of {first['scenes']} scenes"
    return f"{result['model']}: {counts}; means over clips, 95 % intervals over scenes"


def notes(result: Mapping) -> list[str]:
    """What a reader of the metrics has to know."""
    left_out = {row["clip"]: row["left_out"] for row in result["clips"] if row["left_out"]}
    count, clips = sum(left_out.values()), len(left_out)
    lines = [f"note: frames without pose or depth were left out: {count} in {clips} clips"] if left_out else []
    known = {name for setting in result["cells"] for name, count in setting["figure_scenes"].items() if count}
    asked = result.get("probes", {}).get("readings", ())
    absent = [name for name, metric in OF_OBJECTS.items() if name in asked and metric not in known]
    if absent:
        lines.append(f"note: without {' and '.join(absent)}: clips have no ids of objects (rooms have), or too few")
    lines += scene_notes([count for setting in result["cells"] for count in setting["figure_scenes"].values()])
    if result.get("notice"):
        lines.append(f"note: {result['notice']}")
    return lines


def scene_notes(counts: Sequence[int]) -> list[str]:
    """What is to be known of intervals that stand on so many scenes each; 0 is a metric that is not there."""
    least = min((count for count in counts if count), default=FEW_SCENES)
    if least < LEAST_SCENES:
        return [f"note: one scene has no interval; give {FEW_SCENES} or more"]
    if least < FEW_SCENES:
        return [f"note: intervals from {least} scenes are too narrow; give {FEW_SCENES} or more"]
    return []
