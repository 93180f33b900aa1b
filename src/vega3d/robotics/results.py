"""Success rates: episodes of a policy on given initial states, on disk, and the difference of two policies on them.

Letters: S initial states (a task and a seed each), F training seeds of a policy.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.configs import make_settings
from vega3d.files import check_output, only_run, read_json, write_json
from vega3d.journals import JOURNAL_REMEDY, check_same_header, journal_path, open_journal
from vega3d.robotics.closed_loop import ActionPolicy, Episode
from vega3d.robotics.runners import Job, Plan, run_jobs
from vega3d.statistics import Difference, draw, paired_difference, paired_rates, wilson_interval
from vega3d.tables import aligned

FORMAT = "vega3d-episodes-1"
OVERALL = "all tasks"
REMEDY = "Evaluate the policy again."


def evaluate_policy(
    plan: Plan,
    jobs: Sequence[Job],
    header: Mapping[str, Any],
    output: Path,
    policy: ActionPolicy | None = None,
    processes: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The result of a policy in the closed loop: run, counted and written; what an earlier run did is not repeated.

    Args:
        plan: how episodes are run.
        jobs: the initial states.
        header: what the episodes depend on, such as `benchmark`, `policy` and `settings`.
        output: JSON file of the result. If it is there already, and of the same run, it is returned as it is.
        on_progress: called with the number of episodes that are newly done.

    Raises:
        ValueError: if the output cannot be written, or it or its journal is of another run or damaged.
        RuntimeError: as `run_jobs`.
    """
    if not jobs or len(set(jobs)) < len(jobs):
        raise ValueError(f"Got {len(jobs)} initial states, {len(set(jobs))} of them different; give each once.")
    states = {task: [job.seed for job in jobs if job.task == task] for task in dict.fromkeys(job.task for job in jobs)}
    header = {"format": FORMAT, **header, "initial_states": states}
    check_output(output)
    with only_run(output):
        if output.exists():
            finished = read_result(output)
            check_same_header({name: finished.get(name) for name in header}, header, output)
            return finished
        journal_file = journal_path(output)
        with open_journal(journal_file, header) as (stored, journal):
            done = {key: stored_episode(key, value, journal_file) for key, value in stored.items()}
            left = [job for job in jobs if state_name(job) not in done]
            if on_progress is not None:
                on_progress(len(jobs) - len(left))
            with contextlib.closing(run_jobs(plan, left, processes, policy)) as running:
                for episode, _ in running:
                    journal.append({"answers": {state_name(episode): asdict(episode)}})
                    done[state_name(episode)] = episode
                    if on_progress is not None:
                        on_progress(1)
        episodes = [done[state_name(job)] for job in jobs]
        result = {**header, "summary": summarise(episodes), "episodes": [asdict(episode) for episode in episodes]}
        write_json(output, result)
        journal_file.unlink()
        return result


def state_name(state: Job | Episode) -> str:
    return f"{state.task} {state.seed}"


def stored_episode(key: str, values: Any, path: Path) -> Episode:
    """An episode as a file has it; raises ValueError if it is none, or of another initial state."""
    try:
        episode = make_settings(Episode, values) if isinstance(values, dict) else None
    except ValueError as error:
        raise ValueError(f"{path}: {key} is no episode: {error} {JOURNAL_REMEDY}") from error
    if episode is None or state_name(episode) != key:
        raise ValueError(f"{path}: {key} is {values!r:.80}, which is no episode of it. {JOURNAL_REMEDY}")
    return episode


def summarise(episodes: Sequence[Episode]) -> dict[str, dict[str, Any]]:
    """Success rates with their intervals, of each task and of all."""
    tasks = {task: [one for one in episodes if one.task == task] for task in dict.fromkeys(e.task for e in episodes)}
    return {name: rate_of(group) for name, group in {**tasks, OVERALL: list(episodes)}.items()}


def rate_of(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Counts, success rate with its 95 % interval by Wilson, and mean steps of those that succeeded."""
    steps = [episode.steps for episode in episodes if episode.success]
    interval = wilson_interval(len(steps), len(episodes))
    counts = {"successes": len(steps), "episodes": len(episodes)}
    return counts | {
        "rate": interval.score,
        "low": interval.low,
        "high": interval.high,
        "mean_steps": float(np.mean(steps)) if steps else None,
        "clipped": float(np.mean([episode.clipped for episode in episodes])),
    }


def read_result(path: Path) -> dict[str, Any]:
    """A file of `evaluate_policy`; raises ValueError if it holds what that does not write."""
    result = read_json(path, REMEDY)
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {result.get('format')!r:.80}, but must be {FORMAT!r}. {REMEDY}")
    episodes = result.get("episodes")
    if not isinstance(episodes, list) or not episodes:
        raise ValueError(f"{path} has the episodes {episodes!r:.80}, but must list one at least. {REMEDY}")
    names = {field.name for field in fields(Episode)}
    for number, values in enumerate(episodes):
        if not isinstance(values, dict) or values.keys() != names or not isinstance(values["success"], bool):
            raise ValueError(f"{path}: episode {number} is {values!r:.120}, but must have {sorted(names)}. {REMEDY}")
    return result


def successes(result: Mapping[str, Any]) -> dict[tuple[str, int], bool]:
    """Whether each initial state, a task and a seed, ended in success."""
    return {(one["task"], one["seed"]): one["success"] for one in result["episodes"]}


def compare_policies(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Differences of two policies on the same initial states, `second` minus `first`, of each task and of all.

    With one result a side the interval is Newcombe's for pairs. With several, which are training seeds, it is that of
    the bootstrap over seeds and initial states.

    Args:
        first, second: results of `evaluate_policy` by the names of their files.

    Raises:
        ValueError: if they are not of the same initial states and limits, or two of a side are of one policy.
    """
    check_training_seeds(first)
    check_training_seeds(second)
    (name, reference), *others = [*first.items(), *second.items()]
    states = sorted(successes(reference))
    for other, result in others:
        check_same_states(name, reference, other, result)
    tables = [
        np.array([[successes(result)[state] for state in states] for result in side.values()])
        for side in (first, second)
    ]  # bool[F, S] a side
    tasks = np.array([task for task, _ in states])
    chosen = {task: tasks == task for task in dict.fromkeys(tasks.tolist())} | {OVERALL: np.ones(len(tasks), bool)}
    return {task: difference_values(*(table[:, which] for table in tables)) for task, which in chosen.items()}


def check_training_seeds(side: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError if two results of a side are of the same policy, which says nothing of another seed."""
    policies: dict[str, str] = {}
    for name, result in side.items():
        policy = str(result.get("policy"))
        if policy in policies:
            raise ValueError(
                f"{policies[policy]} and {name} are of one policy, {policy:.80}. Give each training seed once."
            )
        policies[policy] = name


def check_same_states(name: str, reference: Mapping[str, Any], other: str, result: Mapping[str, Any]) -> None:
    limits = [(one.get("benchmark"), one.get("settings", {}).get("most_steps")) for one in (reference, result)]
    if limits[0] != limits[1]:
        raise ValueError(f"{name} is of (benchmark, most_steps) {limits[0]}, and {other} of {limits[1]}. {REMEDY}")
    ours, theirs = set(successes(reference)), set(successes(result))
    if ours != theirs:
        example = min(ours ^ theirs)
        raise ValueError(
            f"{name} has {len(ours)} initial states and {other} {len(theirs)}, and {example} is in one alone. "
            "Evaluate both on the same tasks and seeds."
        )


def difference_values(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """The difference of bool[F, S] and bool[G, S], as JSON has it."""
    found = paired_seeds(first, second) if max(len(first), len(second)) > 1 else paired_rates(first[0], second[0])
    values = {"first": found.first, "second": found.second, "difference": found.interval.score}
    values |= {"low": found.interval.low, "high": found.interval.high, "initial_states": found.scenes}
    if len(first) == len(second) == 1:
        values |= {"only_first": int((first & ~second).sum()), "only_second": int((second & ~first).sum())}
    return values


def paired_seeds(first: np.ndarray, second: np.ndarray) -> Difference:
    """The difference of the mean success of several training seeds a side, bool[F, S] and bool[G, S]."""
    states = first.shape[1]
    draws = draw(states, (len(first), len(second)))
    rates = [
        draws.sums([row[:, None].astype(float) for row in side], number)[:, 0] / states
        for number, side in enumerate((first, second))
    ]
    return paired_difference(rates[0], rates[1], states)


def format_summary(result: Mapping[str, Any]) -> str:
    """A table of success rates, one row a task."""
    rows = [["task", "success", "95 % interval", "of", "steps"]]
    for task, rate in result["summary"].items():
        steps = "-" if rate["mean_steps"] is None else f"{rate['mean_steps']:.0f}"
        interval = f"{rate['low']:.2f} to {rate['high']:.2f}"
        rows.append([task, f"{rate['rate']:.2f}", interval, str(rate["episodes"]), steps])
    return "\n".join(aligned(rows))


def format_comparison(differences: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of differences, one row a task."""
    rows = [["task", "first", "second", "difference", "95 % interval", "states"]]
    for task, found in differences.items():
        interval = "-" if found["low"] is None else f"{found['low']:+.2f} to {found['high']:+.2f}"
        rates = [f"{found[side]:.2f}" for side in ("first", "second")]
        rows.append([task, *rates, f"{found['difference']:+.2f}", interval, str(found["initial_states"])])
    return "\n".join(aligned(rows))
