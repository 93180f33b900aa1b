"""How far off the places, bearings and frames are that a model writes beside the names in its reasons.

A sentence such as "lamp 1.2 ahead 0.4 left; sofa to lamp 60" says what the language model holds of an object when it
is asked about, in metres and degrees. What is true is the reason of the training target for the same question, with
places to 0.2 m and bearings to 15 degrees, so that a perfect reason has no error at all. A name that the model leaves
out has no error: `told` says how many of the names of the targets it tells.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from research.tiny.study.data import Row
from research.tiny.study.point_table import cell
from research.tiny.study.table import Results, pairs
from vega3d.evaluation.report import scene_notes
from vega3d.questions import reason_and_answer
from vega3d.statistics import RESAMPLES, SHARE, Draws, Interval, Limits, draw, percentile_interval

PLACE, BEARING, FRAME = KINDS = ("place", "bearing", "frame")  # errors in [m], [deg], frames
STATISTICS = ("median", "mean", "told")
UNITS = {PLACE: "m", BEARING: "deg", FRAME: "frames"}
PATTERNS = {
    PLACE: re.compile(r"(.+?) (\d+\.\d) (ahead|behind) (\d+\.\d) (left|right)(?: \d+\.\d away)?"),
    BEARING: re.compile(r"(.+ to .+) (\d+)"),
    FRAME: re.compile(r"(\D+) (\d+)"),
}
ROUNDING = 1e-9  # of sums of shares
Mentions = dict[tuple[str, str], tuple[float, ...]]  # by kind and name: ahead and right [m], bearing [deg], or frame
Drawn = Mapping[str, Mapping[str, np.ndarray]]  # float[R + 1] by kind and statistic


def mentions(reason: str) -> Mentions:
    """What a reason says about names; of a name that is said twice what is said first."""
    found: Mentions = {}
    for part in re.split(r"[,;:] ", reason):
        for kind, pattern in PATTERNS.items():
            match = pattern.fullmatch(part)
            if match is not None:
                name, *values = match.groups()
                found.setdefault((kind, name), position(*values) if kind == PLACE else (float(values[0]),))
                break
    return found


def position(ahead: str, along: str, right: str, across: str) -> tuple[float, float]:
    """How far ahead and to the right [m], of such as "1.2", "behind", "0.4", "left"."""
    return float(ahead) * (1 if along == "ahead" else -1), float(right) * (1 if across == "right" else -1)


def error(kind: str, true: Sequence[float], told: Sequence[float]) -> float:
    away = np.subtract(told, true)
    return float(abs((away[0] + 180) % 360 - 180) if kind == BEARING else np.hypot.reduce(away))


@dataclass(frozen=True)
class Errors:
    """The errors of one kind in the answers of one run.

    Attributes:
        told: scene and error of each name that the model tells.
        asked: scene of each name that there is in the targets.
    """

    told: list[tuple[int, float]]
    asked: list[int]


def run_errors(result: Mapping, true: Mapping[str, Mentions], scenes: Mapping[str, int]) -> dict[str, Errors]:
    """By kind, from a result file with reasons, what is true of each question by id, and the numbers of the scenes.

    Raises:
        ValueError: if the result has no reasons.
    """
    found = {kind: Errors([], []) for kind in KINDS}
    for question in result["questions"]:
        if "reason" not in question:
            raise ValueError(f"The result of {result['settings']['name']} has no reasons. Delete it to ask again.")
        told, scene = mentions(question["reason"]), scenes[question["scene"]]
        for (kind, name), value in true[question["id"]].items():
            found[kind].asked.append(scene)
            if (kind, name) in told:
                found[kind].told.append((scene, round(error(kind, value, told[kind, name]), 3)))
    return found


def drawn_statistics(runs: Sequence[Errors], draws: Draws) -> dict[str, np.ndarray]:
    """float[R + 1] of each of `STATISTICS`, over the drawn runs and scenes; NaN where nothing is told."""
    scenes = draws.scenes.shape[1]
    sizes = np.unique([size for run in runs for _, size in run.told])
    counts = [np.zeros((scenes, len(sizes))) for _ in runs]
    for table, run in zip(counts, runs, strict=True):
        for scene, size in run.told:
            table[scene, np.searchsorted(sizes, size)] += 1
    weights = draws.sums(counts, 0)  # float[R + 1, K] of the K sizes that there are
    total = weights.sum(-1)
    asked = draws.scenes @ np.bincount(runs[0].asked, minlength=scenes)
    with np.errstate(invalid="ignore"):
        shares = weights / total[:, None]
        told = total / asked
    if not len(sizes):
        return {"median": np.full(len(total), np.nan), "mean": np.full(len(total), np.nan), "told": told}
    places = (shares.cumsum(-1) >= 0.5 - ROUNDING).argmax(-1)
    median = np.where(total > 0, sizes[places], np.nan)
    return {"median": median, "mean": shares @ sizes, "told": told}


def name_values(
    results: Results, rows: Iterable[Row], against: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """Errors at names of one split with 95 % intervals: of arms and of differences over seeds and scenes, which are
    paired, and of each seed over scenes.

    Args:
        results: of all arms, each with as many seeds.
        rows: those of the split, with their targets in words.
        against: arms that the others are compared with, each pair once.
        resamples: of the bootstrap.
        seed: of the draws.

    Returns:
        `scenes`, with any name; `seeds`; and `errors`, `seed_errors` and `differences`, each by kind and statistic. A
        kind that is asked nowhere is left out.
    """
    true = {row.id: mentions(reason_and_answer(row.words)[0]) for row in rows}
    questions = next(iter(results.values()))[0]["questions"]
    scenes = {name: number for number, name in enumerate(sorted({question["scene"] for question in questions}))}
    errors = {arm: [run_errors(result, true, scenes) for result in found] for arm, found in results.items()}
    seeds = len(next(iter(errors.values())))
    draws, alone = draw(len(scenes), (seeds,), resamples, seed), draw(len(scenes), (1,), resamples, seed)
    kinds = [kind for kind in KINDS if any(runs[0][kind].asked for runs in errors.values())]

    def statistics(runs: Sequence[Mapping[str, Errors]], some: Draws) -> Drawn:
        return {kind: drawn_statistics([run[kind] for run in runs], some) for kind in kinds}

    def interval(values: np.ndarray, limits: Limits | None) -> dict:
        known = np.isfinite(values[-1])
        return asdict(percentile_interval(values, len(scenes), limits) if known else Interval(None, None, None))

    def intervals(found: Drawn) -> dict:
        limits = {"told": SHARE}
        return {
            kind: {name: interval(values, limits.get(name)) for name, values in figures.items()}
            for kind, figures in found.items()
        }

    def differences(ours: Drawn, theirs: Drawn) -> dict:
        return {
            kind: {name: interval(ours[kind][name] - theirs[kind][name], None) for name in STATISTICS}
            for kind in kinds
        }

    drawn = {arm: statistics(runs, draws) for arm, runs in errors.items()}
    return {
        "scenes": len(scenes),
        "seeds": seeds,
        "errors": {arm: intervals(found) for arm, found in drawn.items()},
        "seed_errors": {
            arm: {
                str(result["settings"]["seed"]): intervals(statistics([run], alone))
                for result, run in zip(results[arm], runs, strict=True)
            }
            for arm, runs in errors.items()
        },
        "differences": {
            f"{arm} - {control}": differences(drawn[arm], drawn[control]) for arm, control in pairs(drawn, against)
        },
    }


def name_table(split: str, values: Mapping) -> str:
    """Markdown of `name_values`."""
    kinds = list(next(iter(values["errors"].values())))
    names = [
        f"{kind}, {name}" + ("" if name == "told" else f" [{UNITS[kind]}]") for kind in kinds for name in STATISTICS
    ]
    lines = [
        f"## Names: {split}, {values['scenes']} scenes, {values['seeds']} seeds",
        "",
        "Errors of what reasons say beside names, with their 95 % interval over scenes, and over seeds where none "
        "is named; less is better. `told` is the share of the names of the target that are told. Bold differences "
        "leave out 0.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]

    def line(name: str, found: Mapping, sign: str = "") -> str:
        return f"| {name} | " + " | ".join(cell(found[kind][one], sign) for kind in kinds for one in STATISTICS) + " |"

    for arm, found in values["errors"].items():
        lines.append(line(arm, found))
        lines += [line(f"{arm}, seed {seed}", one) for seed, one in values["seed_errors"][arm].items()]
    lines += [line(pair, found, "+") for pair, found in values["differences"].items()]
    return "\n".join([*lines, *(f"\n{note}" for note in scene_notes({"all": values["scenes"]}))]) + "\n"
