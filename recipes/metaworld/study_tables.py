"""Tables of a study: success of each arm and task, paired differences, what the seeds resolve, control rates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recipes.metaworld.rate import FORMAT as RATES
from recipes.metaworld.rate import format_rates
from recipes.metaworld.study import Study, run_name
from research.tiny.study.power import power_values
from vega3d.files import read_json
from vega3d.robotics.results import OVERALL, compare_policies, read_result, successes
from vega3d.statistics import SHARE, Interval, draw, percentile_interval, wilson_interval

FORMAT = "vega3d-policy-study-1"
DEVICES = ("cpu", "cuda")
Results = dict[str, dict[str, Any]]  # of `evaluate`, by the names of their files


def table_values(study: Study) -> dict[str, Any]:
    """All numbers of the tables; raises ValueError for results of different initial states."""
    recipe = study.recipe
    arms = {arm: results_of(study, [run_name(*run) for run in study.runs() if run[0] == arm]) for arm in study.arms}
    baselines = {name: results_of(study, [name]) for name in recipe.evaluation.baselines}
    pairs: dict[str, Any] = {}
    for first, second in recipe.pairs:
        seeds = [seed for seed in recipe.shared_seeds((first, second)) if seed in study.seeds]
        if seeds and {first, second} <= set(study.arms):
            sides = [results_of(study, [run_name(arm, seed) for seed in seeds]) for arm in (first, second)]
            pairs[f"{second} - {first}"] = pair_values(*sides, seeds)
    rates = [read_json(study.rates(device)) for device in DEVICES if study.rates(device).is_file()]
    return {
        "format": FORMAT,
        "arms": {name: arm_values(results) for name, results in {**baselines, **arms}.items()},
        "pairs": pairs,
        "trainings": {run_name(*run): found for run in study.runs() if (found := training_values(study, run))},
        "rates": [one for one in rates if one.get("format") == RATES],
    }


def results_of(study: Study, names: Sequence[str]) -> Results:
    return {str(study.result(name)): read_result(study.result(name)) for name in names}


def arm_values(results: Results) -> dict[str, Any]:
    """Success of an arm: its seeds, and of each task and of all how many episodes succeeded and failed.

    The interval is that of Wilson for one seed, and for several that of the bootstrap over seeds and initial states.
    """
    tasks: dict[str, Any] = {}
    tables = [successes(result) for result in results.values()]
    states = sorted(tables[0])
    done = np.array([[table[state] for state in states] for table in tables])  # bool[F, S]
    of_task = np.array([task for task, _ in states])
    for task in [*dict.fromkeys(of_task.tolist()), OVERALL]:
        chosen = done if task == OVERALL else done[:, of_task == task]
        interval = success_interval(chosen)
        tasks[task] = {
            "successes": int(chosen.sum()),
            "failures": int((~chosen).sum()),
            "of_each_seed": chosen.sum(1).tolist(),
            "rate": interval.score,
            "low": interval.low,
            "high": interval.high,
        }
    clipped = [one["clipped"] for result in results.values() for one in result["episodes"]]
    return {"files": list(results), "clipped": float(np.mean(clipped)), "tasks": tasks}


def success_interval(done: np.ndarray) -> Interval:
    """The share of bool[F, S] that succeeded."""
    seeds, states = done.shape
    if seeds == 1:
        return wilson_interval(int(done.sum()), states)
    sums = draw(states, (seeds,)).sums([row[:, None].astype(float) for row in done], 0)[:, 0]
    return percentile_interval(sums / states, states, SHARE)


def pair_values(first: Results, second: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """Differences of two arms of the same seeds, second minus first, and how small a one these seeds resolve."""
    differences = compare_policies(first, second)
    tables = [[successes(result) for result in side.values()] for side in (first, second)]
    states = sorted(tables[0][0])
    both = [np.array([[table[state] for state in states] for table in side], float) for side in tables]
    drawn = (both[1] - both[0]) @ draw(len(states), (len(seeds),)).scenes.T / len(states)  # float[F, R + 1]
    power = power_values(drawn)
    is_known = power is not None and power["seed_deviation"] + power["scene_deviation"] > 0
    return {"seeds": list(seeds), "differences": differences, "power": power if is_known else None}


def training_values(study: Study, run: tuple[str, int]) -> dict[str, Any] | None:
    """What a training came to, where its folder tells it."""
    file = study.policy(run) / "training.json"
    if not file.is_file():
        return None
    found = read_json(file)
    gates = [entry["gate_mean"] for entry in found.get("log", []) if "gate_mean" in entry]
    names = ("steps", "loss_first", "loss_last", "residual_scale", "warnings")
    return {**{name: found.get(name) for name in names}, "gate_mean": gates[-1] if gates else None}


def markdown(values: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    return "\n".join([*success_table(values["arms"]), *difference_tables(values["pairs"]), *other_tables(values)])


def success_table(arms: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Success", "")
    yield "Share of episodes that succeeded [%], its 95 % interval, and in brackets successes and failures; of one"
    yield "training seed by Wilson, of several by the bootstrap over seeds and initial states."
    yield ""
    yield from heading(["task", *(f"{arm} ({seeds_text(found)})" for arm, found in arms.items())])
    for task in next(iter(arms.values()))["tasks"]:
        cells = [found["tasks"][task] for found in arms.values()]
        yield row([task, *(f"{percent(one)} ({one['successes']} + {one['failures']})" for one in cells)])
    yield row(["actions beyond the limits", *(f"{100 * found['clipped']:.1f} %" for found in arms.values())])
    yield ""


def seeds_text(found: Mapping[str, Any]) -> str:
    count = len(found["files"])
    return f"{count} seed{'s' if count > 1 else ''}"


def difference_tables(pairs: Mapping[str, Any]) -> Iterator[str]:
    if not pairs:
        return
    yield from ("## Differences", "")
    yield "Points of success on the same initial states, with 95 % intervals: Newcombe's for one training seed, else"
    yield "of the bootstrap over seeds and initial states. Where all episodes of both arms end alike there is none, or"
    yield "one without width, which says little."
    yield ""
    yield from heading(["task", *(f"{pair} ({len(found['seeds'])})" for pair, found in pairs.items())])
    for task in next(iter(pairs.values()))["differences"]:
        cells = [found["differences"][task] for found in pairs.values()]
        yield row([task, *map(points, cells)])
    smallest = [found["power"] for found in pairs.values()]
    yield row(
        ["smallest that these seeds resolve", *("-" if p is None else f"{100 * p['resolved']:.1f}" for p in smallest)]
    )
    yield ""


def other_tables(values: Mapping[str, Any]) -> Iterator[str]:
    if values["trainings"]:
        yield from ("## Trainings", "")
        yield from heading(["training", "steps", "first loss", "last loss", "residual scale r", "gate"])
        for name, found in values["trainings"].items():
            numbers = [found[key] for key in ("loss_first", "loss_last", "residual_scale", "gate_mean")]
            yield row([name, str(found["steps"]), *("-" if n is None else f"{n:.4f}" for n in numbers)])
        yield ""
        yield from (f"- {name}: {text}" for name, found in values["trainings"].items() for text in found["warnings"])
    for found in values["rates"]:
        yield from ("## Control rate", "", "```", format_rates(found), "```", "")


def heading(cells: Sequence[str]) -> Iterator[str]:
    yield row(cells)
    yield row(["---"] * len(cells))


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def percent(found: Mapping[str, Any]) -> str:
    return f"{100 * found['rate']:.0f}{interval_text(found, '.0f')}"


def points(found: Mapping[str, Any]) -> str:
    return f"{100 * found['difference']:+.1f}{interval_text(found, '+.0f')}"


def interval_text(found: Mapping[str, Any], form: str) -> str:
    """`[3, 7]` behind a space, in percent; nothing where there is no interval."""
    ends = [found["low"], found["high"]]
    return "" if None in ends else f" [{', '.join(format(100 * end, form) for end in ends)}]"
