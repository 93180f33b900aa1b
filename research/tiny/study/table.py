"""The tables of an experiment: each arm's scores, and its differences from a control, over seeds and scenes.

Both intervals are hierarchical: seeds are drawn with replacement, and scenes are, and differences are of the same
seeds on the same scenes.
"""

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from vega3d.evaluation.metrics import CATEGORIES, EXTRA_CHOICE_TYPES
from vega3d.evaluation.report import (
    compare,
    percent,
    read_result,
    result_scenes,
    scene_notes,
    seed_intervals,
    span,
    verdict,
)
from vega3d.files import write_whole
from vega3d.statistics import RESAMPLES, Difference, Interval

FORMAT = "vega3d-experiment-1"
ROWS = (*CATEGORIES, "macro", *EXTRA_CHOICE_TYPES)  # localisation by choice is in no average
Results = Mapping[str, Sequence[Mapping]]  # arm -> one result for each seed, in the same order


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


def split_values(results: Results, against: Sequence[str], scoring: str, resamples: int = RESAMPLES) -> dict:
    """Scores and paired differences of one split, in [0, 1] and [-1, 1].

    Args:
        results: of all arms.
        against: arms that the others are compared with, each pair once.
        scoring: `official` or `likelihood`.
        resamples: of the bootstrap.
    """
    sides = {arm: {f"{arm}/{n}": result for n, result in enumerate(found)} for arm, found in results.items()}
    scores = {arm: seed_intervals(side, scoring, resamples) for arm, side in sides.items()}
    differences: dict[str, dict[str, Difference]] = {}
    for control in against:
        for arm, side in sides.items():
            if arm != control and f"{control} - {arm}" not in differences:
                found = compare(sides[control], side, scoring, resamples, paired_seeds=True)
                differences[f"{arm} - {control}"] = found
    first = next(iter(results.values()))[0]
    questions, behind = first["questions"], result_scenes(first)
    return {
        "scenes": len({question["scene"] for question in questions}),
        "questions": len(questions),
        "figure_scenes": {name: behind[name] for name in next(iter(scores.values()))},
        "scores": {arm: {name: asdict(value) for name, value in found.items()} for arm, found in scores.items()},
        "differences": {
            pair: {name: {**asdict(value), "verdict": verdict(value)} for name, value in found.items()}
            for pair, found in differences.items()
        },
    }


def experiment_values(
    name: str,
    splits: Mapping[str, Results],
    seeds: Sequence[int],
    against: Sequence[str],
    scorings: Sequence[str] = ("official", "likelihood"),
    resamples: int = RESAMPLES,
) -> dict:
    """All tables as plain values: for each split and scoring what `split_values` gives.

    Args:
        name: of the experiment.
        splits: results by split.
        seeds: of the results.
        against: controls.
        scorings: kinds of scores.
        resamples: of the bootstrap.
    """
    first = next(iter(next(iter(splits.values())).values()))[0]
    return {
        "format": FORMAT,
        "name": name,
        "seeds": list(seeds),
        "resamples": resamples,
        "versions": first["versions"],
        "splits": {
            split: {scoring: split_values(results, against, scoring, resamples) for scoring in scorings}
            for split, results in splits.items()
        },
    }


def markdown(values: Mapping) -> str:
    """The official scores as Markdown, a table of scores and one of differences for each split."""
    lines = [f"# {values['name']}", ""]
    for split, scorings in values["splits"].items():
        found = scorings["official"]
        lines += [
            f"## {split}: {found['scenes']} scenes, {found['questions']} questions, {len(values['seeds'])} seeds",
            "",
            "Official score in percent, with its 95 % interval over seeds and scenes.",
            "",
            *score_table(found["scores"]),
            "",
            "Differences in points, of the same seeds on the same scenes, with their 95 % interval; bold where it "
            "leaves out 0.",
            "",
            *difference_table(found["differences"]),
            "",
            *(f"{note}\n" for note in scene_notes(found["figure_scenes"])),
        ]
    return "\n".join(lines)


def table_rows(columns: Mapping[str, Mapping]) -> list[str]:
    return [name for name in ROWS if any(name in column for column in columns.values())]


def score_table(scores: Mapping[str, Mapping]) -> list[str]:
    lines = [f"| category | {' | '.join(scores)} |", f"|---|{'---|' * len(scores)}"]
    for name in table_rows(scores):
        cells = [cell(Interval(**column[name])) if name in column else "-" for column in scores.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def cell(interval: Interval) -> str:
    return f"{percent(interval.score)} {span(interval.low, interval.high)}"


def difference_table(differences: Mapping[str, Mapping]) -> list[str]:
    lines = [f"| category | {' | '.join(differences)} |", f"|---|{'---|' * len(differences)}"]
    for name in table_rows(differences):
        cells = []
        for column in differences.values():
            if name not in column:
                cells.append("-")
                continue
            interval = Interval(**column[name]["interval"])
            text = f"{100 * (interval.score or 0.0):+.1f} {span(interval.low, interval.high)}"
            cells.append(f"**{text}**" if column[name]["verdict"] in ("first", "second") else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def write_tables(output: Path, values: Mapping) -> None:
    """`results.json` and `results.md`."""
    write_whole(output / "results.json", partial(Path.write_text, data=json.dumps(values, indent=1) + "\n"))
    write_whole(output / "results.md", partial(Path.write_text, data=markdown(values)))


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
