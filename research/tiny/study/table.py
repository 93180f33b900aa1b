"""The tables of an experiment: each arm's scores, and its differences from a control, over seeds and scenes.

Both intervals are hierarchical: seeds are drawn with replacement, and scenes are, and differences are of the same
seeds on the same scenes.
"""

import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from research.tiny.study.power import power_table, power_values
from research.tiny.study.said import OFFICIAL, SAID, said_results
from vega3d.evaluation.metrics import CATEGORIES, EXTRA_CHOICE_TYPES
from vega3d.evaluation.report import (
    ALL,
    percent,
    read_result,
    result_scenes,
    scene_notes,
    side_scores,
    span,
    verdict,
)
from vega3d.evaluation.result_files import check_same_questions
from vega3d.files import write_json, write_whole
from vega3d.statistics import (
    LEAST_SCENES,
    RESAMPLES,
    SHARE,
    Draws,
    Interval,
    draw,
    paired_difference,
    percentile_interval,
)

FORMAT = "vega3d-experiment-1"
NEED_SPACE = (  # rows whose answers names alone do not give; the last is in no average of VSI-Bench
    "object_abs_distance",
    "object_rel_distance",
    "object_rel_direction",
    "route_planning",
    "obj_appearance_order",
    *EXTRA_CHOICE_TYPES,
)
SPATIAL = "spatial_macro"
ROWS = (*CATEGORIES, *EXTRA_CHOICE_TYPES, "macro", SPATIAL)
NAMED_ROWS = ("object_size_estimation", "room_size_estimation", "object_counting")  # beside what names alone score
NAME_ALONE = "name alone"
Results = Mapping[str, Sequence[Mapping]]  # arm -> one result for each seed, in the same order
Scores = dict[str, np.ndarray]  # float[R + 1] by row


def read_results(folder: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, list[dict]]:
    """
    Args:
        folder: of one split, with `{arm}-seed{n}.json`.
        arms: wanted.
        seeds: wanted of each.

    Raises:
        ValueError: if one is missing.
    """
    return {arm: [read_result(folder / f"{arm}-seed{seed}.json") for seed in seeds] for arm in arms}


def pairs(arms: Iterable[str], against: Sequence[str]) -> list[tuple[str, str]]:
    """Each arm with each control, no pair twice."""
    found: list[tuple[str, str]] = []
    for control in against:
        found += [(arm, control) for arm in arms if arm != control and (control, arm) not in found]
    return found


def arm_scores(results: Sequence[Mapping], scoring: str, draws: Draws) -> Scores:
    """`report.side_scores` of the seeds of an arm, and the mean of the rows that need space."""
    scores = side_scores(results, scoring, draws, 0)
    spatial = [scores[name] for name in NEED_SPACE if name in scores]
    return scores | ({SPATIAL: np.mean(spatial, axis=0)} if spatial else {})


def scenes_behind(result: Mapping) -> dict[str, int]:
    """`report.result_scenes`, with those of the mean of the rows that need space."""
    behind = result_scenes(result)
    spatial = [behind[name] for name in NEED_SPACE if name in behind]
    return behind | ({SPATIAL: min(spatial)} if spatial else {})


def split_values(
    results: Results, name_alone: Mapping, against: Sequence[str], scoring: str, resamples: int = RESAMPLES
) -> dict:
    """`paired_values` of one split, of names alone in `name_alone`, and what the seeds resolve in `power`.

    Args:
        results: of all arms, each with as many seeds.
        name_alone: result of `name_alone.NameAlone` on the same questions.
        against: arms that the others are compared with, each pair once.
        scoring: `official` or `likelihood`.
        resamples: of the bootstrap.
    """
    named = [(f"{arm}/{number}", result) for arm, found in results.items() for number, result in enumerate(found)]
    check_same_questions([*named, (NAME_ALONE, name_alone)])
    columns = {**results, NAME_ALONE: [name_alone] * len(next(iter(results.values())))}
    values = paired_values(columns, [NAME_ALONE, *against], scoring, resamples)
    ends = f" - {NAME_ALONE}"
    beside = {pair: found for pair, found in values["differences"].items() if pair.endswith(ends)}
    known = values["figure_scenes"].get(SPATIAL, 0) >= LEAST_SCENES
    return {
        **values,
        "scores": {arm: values["scores"][arm] for arm in results},
        "differences": {pair: found for pair, found in values["differences"].items() if pair not in beside},
        "name_alone": {"scores": values["scores"][NAME_ALONE], "differences": beside},
        "power": spatial_power(results, against, scoring, resamples) if known else {},
    }


def paired_values(results: Results, against: Sequence[str], scoring: str, resamples: int = RESAMPLES) -> dict:
    """Scores and paired differences, in [0, 1] and [-1, 1], of columns that have questions of the same ids."""
    first = next(iter(results.values()))
    questions, behind = first[0]["questions"], scenes_behind(first[0])
    draws = draw(behind[ALL], (len(first),), resamples)
    scores = {name: arm_scores(found, scoring, draws) for name, found in results.items()}

    def differences(ours: Scores, theirs: Scores) -> dict[str, dict]:
        found = {name: paired_difference(theirs[name], ours[name], behind[name]) for name in ours}
        return {name: {**asdict(value), "verdict": verdict(value)} for name, value in found.items()}

    return {
        "scenes": len({question["scene"] for question in questions}),
        "questions": len(questions),
        "figure_scenes": {name: behind[name] for name in next(iter(scores.values()))},
        "scores": {
            column: {name: asdict(percentile_interval(values, behind[name], SHARE)) for name, values in found.items()}
            for column, found in scores.items()
        },
        "differences": {
            f"{one} - {control}": differences(scores[one], scores[control]) for one, control in pairs(scores, against)
        },
    }


def spatial_power(results: Results, against: Sequence[str], scoring: str, resamples: int) -> dict[str, dict | None]:
    """`power.power_values` of the mean of the rows that need space, by pair of arms."""
    draws = draw(scenes_behind(next(iter(results.values()))[0])[ALL], (1,), resamples)
    means = {
        arm: np.stack([arm_scores([result], scoring, draws)[SPATIAL] for result in found])
        for arm, found in results.items()
    }
    return {
        f"{arm} - {control}": power_values(means[arm] - means[control]) for arm, control in pairs(results, against)
    }


def experiment_values(
    name: str,
    splits: Mapping[str, Results],
    name_alone: Mapping[str, Mapping],
    seeds: Sequence[int],
    against: Sequence[str],
    void: Mapping[str, Mapping[int, Mapping]],
    scorings: Sequence[str] = ("official", "likelihood", SAID),
    resamples: int = RESAMPLES,
) -> dict:
    """All tables as plain values: for each split and scoring what `split_values` gives.

    Args:
        name: of the experiment.
        splits: results by split.
        name_alone: result of `name_alone.NameAlone` by split.
        seeds: of the results.
        against: controls.
        void: last line of the log of each run that is void, by arm and seed.
        scorings: kinds of scores; `said` is the official one of what reasons say (`said.py`).
        resamples: of the bootstrap.
    """
    first = next(iter(next(iter(splits.values())).values()))[0]

    def scored(split: str, scoring: str) -> dict:
        results, is_said = splits[split], scoring == SAID
        columns = said_results(results) if is_said else results
        return split_values(columns, name_alone[split], against, OFFICIAL if is_said else scoring, resamples)

    return {
        "format": FORMAT,
        "name": name,
        "seeds": list(seeds),
        "resamples": resamples,
        "versions": first["versions"],
        "void": {arm: {str(seed): entry for seed, entry in runs.items()} for arm, runs in void.items()},
        "splits": {split: {scoring: scored(split, scoring) for scoring in scorings} for split in splits},
    }


def markdown(values: Mapping) -> str:
    """The official scores as Markdown, a table of scores and one of differences for each split."""
    void = values["void"]
    lines = [f"# {values['name']}", "", *void_lines(void)]
    for split, scorings in values["splits"].items():
        found = scorings[OFFICIAL]
        lines += [
            f"## {split}: {found['scenes']} scenes, {found['questions']} questions, {len(values['seeds'])} seeds",
            "",
            "Official score in percent, with its 95 % interval over seeds and scenes.",
            "",
            *score_table(marked(found["scores"], void)),
            "",
            "Differences in points, of the same seeds on the same scenes, with their 95 % interval; bold where it "
            "leaves out 0.",
            "",
            *difference_table(marked(found["differences"], void)),
            "",
            *(said_lines(scorings[SAID], void) if SAID in scorings else []),
            "Sizes and counts beside what type and names of the question alone score: the median, or the most "
            "frequent count, of training rooms. Differences in points, as above.",
            "",
            *name_alone_table(found["name_alone"]["scores"], marked(found["name_alone"]["differences"], void)),
            "",
            *power_table(marked(found["power"], void)),
            *spatial_notes(found["scores"]),
            *(f"{note}\n" for note in scene_notes(found["figure_scenes"])),
        ]
    return "\n".join(lines)


def said_lines(found: Mapping, void: Mapping[str, Mapping]) -> list[str]:
    """The same tables of what reasons say."""
    return [
        "The same of the options that reasons say, whatever letter follows; where a reason says none, of the letter.",
        "",
        *score_table(marked(found["scores"], void), (*NEED_SPACE, SPATIAL)),
        "",
        *difference_table(marked(found["differences"], void), (*NEED_SPACE, SPATIAL)),
        "",
    ]


def void_lines(void: Mapping[str, Mapping]) -> list[str]:
    """What shows that runs are void."""
    if not void:
        return []
    entries = [
        f"- `{arm}`, seed {seed}: `{json.dumps(entry)}`" for arm, runs in void.items() for seed, entry in runs.items()
    ]
    return [
        "**Void**, because the gate is shut or r is 0 at the end, so that the second stream is not heard. The figures "
        "of these arms below count such runs, and say nothing of the stream. The last lines of their logs:",
        "",
        *entries,
        "",
    ]


def marked(columns: Mapping[str, Any], void: Mapping[str, Mapping]) -> dict[str, Any]:
    """Columns of arms or pairs of arms, with those that have a void run named so."""
    return {
        f"{name} (void)" if any(arm in void for arm in name.split(" - ")) else name: column
        for name, column in columns.items()
    }


def table_rows(columns: Mapping[str, Mapping], rows: Sequence[str]) -> list[str]:
    return [name for name in rows if any(name in column for column in columns.values())]


def score_table(scores: Mapping[str, Mapping], rows: Sequence[str] = ROWS) -> list[str]:
    lines = [f"| category | {' | '.join(scores)} |", f"|---|{'---|' * len(scores)}"]
    for name in table_rows(scores, rows):
        cells = [cell(Interval(**column[name])) if name in column else "-" for column in scores.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def cell(interval: Interval) -> str:
    return f"{percent(interval.score)} {span(interval.low, interval.high)}"


def difference_table(differences: Mapping[str, Mapping], rows: Sequence[str] = ROWS) -> list[str]:
    lines = [f"| category | {' | '.join(differences)} |", f"|---|{'---|' * len(differences)}"]
    for name in table_rows(differences, rows):
        cells = [difference_cell(column[name]) if name in column else "-" for column in differences.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def difference_cell(difference: Mapping) -> str:
    interval = Interval(**difference["interval"])
    text = f"{100 * (interval.score or 0.0):+.1f} {span(interval.low, interval.high)}"
    return f"**{text}**" if difference["verdict"] in ("first", "second") else text


def name_alone_table(scores: Mapping[str, Mapping], differences: Mapping[str, Mapping]) -> list[str]:
    """What names alone score, and how much more each arm does, in the rows that names nearly give away."""
    lines = [f"| category | {NAME_ALONE} | {' | '.join(differences)} |", f"|---|---|{'---|' * len(differences)}"]
    for name in NAMED_ROWS:
        if name in scores:
            cells = [cell(Interval(**scores[name])), *(difference_cell(found[name]) for found in differences.values())]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def spatial_notes(scores: Mapping[str, Mapping]) -> list[str]:
    missing = [name for name in NEED_SPACE if not any(name in column for column in scores.values())]
    return [f"note: {SPATIAL} is without {', '.join(missing)}, of which there are no questions\n"] if missing else []


def write_tables(output: Path, values: Mapping) -> None:
    """`results.json` and `results.md`."""
    write_whole(output / "results.json", partial(Path.write_text, data=json.dumps(values, indent=1) + "\n"))
    write_whole(output / "results.md", partial(Path.write_text, data=markdown(values)))


def write_report(stem: Path, values: dict[str, dict], table: Callable[[str, dict], str]) -> None:
    """Writes values by split as JSON, and their tables as Markdown, which is printed."""
    text = "\n".join(table(split, found) for split, found in values.items())
    write_json(stem.with_suffix(".json"), values)
    write_whole(stem.with_suffix(".md"), partial(Path.write_text, data=text))
    print(text)


def archive(output: Path) -> Path:
    """All result files in one, because the questions that they repeat take next to no room there."""
    path = output / "results.tar.xz"

    def write(partial_path: Path) -> None:
        with tarfile.open(partial_path, "w:xz", preset=6) as tar:
            for file in sorted((output / "results").rglob("*.json")):
                tar.add(file, file.relative_to(output).as_posix(), filter=anonymous)

    write_whole(path, write)
    return path


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without times, owners and permissions, so that the same results give the same bytes."""
    entry.mode = 0o644
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
