"""Which setting of a sweep a model reads, and the acceptance criterion: do its features beat those of the controls?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from vega3d.analysis.settings import BASELINES, Setting
from vega3d.analysis.summary import FORMAT, metric_limits, scene_notes, scenes_behind, setting_name, shown
from vega3d.statistics import RESAMPLES, mean_intervals, scene_counts
from vega3d.tables import aligned

MEASURES = {"depth_rmse": -1, "turn_error": -1}  # -1: less is better
CHOICE_COLUMNS = {"depth RMSE [m]": "depth_rmse", "turn error [deg]": "turn_error"}
PROBES = "--probes --readings depth,turn"  # what a sweep needs for it


def best_setting(rows: Sequence[Mapping], family: str, mode: str | None = None, sweep: str = "The sweep") -> Setting:
    """The setting with the smallest sum of its ranks in both measures; of equals the one with the better depth.

    Settings of one family count, and of one mode if it is given. Raises ValueError, naming the `sweep`, if none has
    both measures.
    """
    clips: dict[Setting, list[list[float]]] = {}
    for row in rows:
        if row["family"] == family and mode in (None, row["mode"]) and is_measured(row):
            clips.setdefault(Setting.of_row(row), []).append([row[name] for name in MEASURES])
    if not clips:
        wanted = family if mode is None else f"{family}, mode {mode}"
        raise ValueError(f"{sweep} has no setting of {wanted} with {' and '.join(MEASURES)}. Sweep with {PROBES}.")
    settings = list(clips)
    means = np.array(list(MEASURES.values())) * np.array([np.mean(clips[setting], axis=0) for setting in settings])
    ranks = (means[:, None] < means[None]).sum(axis=1).sum(axis=1)  # settings that are better, over both measures
    return settings[min(range(len(settings)), key=lambda place: (ranks[place], -means[place, 0]))]


def choose(
    rows: Sequence[Mapping], mode: str, other_sweeps: Mapping[str, Sequence[Mapping]], resamples: int = RESAMPLES
) -> dict:
    """The setting to read, and whether it is better than the best of each control and of each other generator.

    Args:
        rows: of a sweep with probes; its first family is the generator's own, the others are controls.
        mode: the mode that the setting is to have.
        other_sweeps: rows of other generators' sweeps over the same clips, by a name of each.
        resamples: how many times the bootstrap draws scenes.

    Returns:
        `cells`, for `own` and each control and other generator the best one; `own_against`, what `compare_settings`
        says of each pair; `is_better`, the acceptance criterion: whether all of it speaks for the own.

    Raises:
        ValueError: if there is nothing to compare with, or a control and another sweep share a name; as
            `best_setting` and `compare_settings`.
    """
    own, controls = own_and_controls(rows, other_sweeps)
    shared = sorted({"own", *controls} & other_sweeps.keys())
    if shared:
        raise ValueError(
            f"--against names {', '.join(shared)}, as a family of the sweep is called. Choose other names."
        )
    chosen = {"own": best_setting(rows, own, mode)}
    compared = {}
    for name, other, family in (
        *((family, rows, family) for family in controls),
        *((name, other, other[0]["family"]) for name, other in other_sweeps.items()),
    ):
        chosen[name] = best_setting(other, family, sweep="The sweep" if other is rows else name)
        compared[name] = compare_settings(rows, chosen["own"], other, chosen[name], resamples)
    return {
        "format": FORMAT,
        "kind": "choice",
        "cells": {name: setting._asdict() for name, setting in chosen.items()},
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
    known = {name for row in rows if row["family"] == own for name in MEASURES if row.get(name) is not None}
    absent = " and ".join(name for name in MEASURES if name not in known) if known else "probes"
    lacking = [] if own in whole else [(f"no {absent or 'setting with all measures'}", PROBES)]
    lacking += [] if given or other_sweeps else [("no controls to compare with", "--controls")]
    if not lacking and not controls and not other_sweeps:
        lacking = [(f"no probes of depth and turn of its controls ({', '.join(given)})", f"{PROBES} and --controls")]
    if lacking:
        what, options = (" and ".join(words) for words in zip(*lacking, strict=True))
        instead = (
            "" if given or other_sweeps else " For another generator's sweep in place of controls give --against."
        )
        raise ValueError(f"The sweep has {what}. Sweep with {options}.{instead}")
    return own, controls


def is_measured(row: Mapping) -> bool:
    return all(row.get(name) is not None for name in MEASURES)


def compare_settings(
    first: Sequence[Mapping], setting: Setting, second: Sequence[Mapping], other: Setting, resamples: int = RESAMPLES
) -> dict[str, dict]:
    """For each measure both settings' means and the difference on the same clips, with 95 % intervals over scenes.

    `setting` is one of the rows `first`, `other` one of `second`; raises ValueError if they are not of the same clips.

    Returns:
        For each measure `first`, `second` and `difference` (`score`, `low`, `high`), `scenes`, how many there are, and
        `is_better`: the difference is in favour of the first, and its interval leaves out 0.
    """
    ours, theirs = clip_rows(first, setting), clip_rows(second, other)
    if ours.keys() != theirs.keys():
        raise ValueError(f"The sweeps are of {len(ours)} and {len(theirs)} clips, but must be of the same.")
    scenes = [row["scene"] for row in ours.values()]
    found = {}
    for name, sign in MEASURES.items():
        values = np.array([[ours[clip][name], theirs[clip][name]] for clip in ours], float)
        columns = np.column_stack([values, values[:, 0] - values[:, 1]])
        limits = [metric_limits(name), metric_limits(name), None]
        intervals = mean_intervals(scenes, columns, resamples, limits=limits)
        ends = [intervals[2].low, intervals[2].high]
        found[name] = {
            **dict(zip(("first", "second", "difference"), map(asdict, intervals), strict=True)),
            "scenes": min(scene_counts(scenes, columns)),
            "is_better": None not in ends and all(sign * end > 0 for end in ends if end is not None),
        }
    return found


def clip_rows(rows: Sequence[Mapping], setting: Setting) -> dict[str, Mapping]:
    """The row of each clip in one setting."""
    return {row["clip"]: row for row in rows if Setting.of_row(row) == setting}


def choice_table(result: Mapping) -> str:
    """The chosen setting, the best of each control, and the paired differences."""
    settings, against = result["cells"], result["own_against"]
    rows = [["best setting", *CHOICE_COLUMNS, "scenes"]]
    for name, setting in settings.items():
        side = "first" if name == "own" else "second"
        pair = next(iter(against.values())) if name == "own" else against[name]
        label = setting_name(setting) if name in ("own", setting["family"]) else f"{name}: {setting_name(setting)}"
        rows.append([label, *pair_columns(pair, side)])
    for name, pair in against.items():
        rows.append([f"own - {name}", *pair_columns(pair, "difference")])
    verdict = "better than all others, intervals apart from 0" if result["is_better"] else "NOT better than all others"
    counts = [measure["scenes"] for pair in against.values() for measure in pair.values()]
    return "\n".join([*aligned(rows), "", verdict, *scene_notes(counts)])


def pair_columns(pair: Mapping, side: str) -> list[str]:
    """One side of a comparison, or the difference, in the columns of the table."""
    counts = {name: pair[name]["scenes"] for name in CHOICE_COLUMNS.values()}
    return [*(shown(pair[name][side]) for name in counts), scenes_behind({"figure_scenes": counts}, counts)]
