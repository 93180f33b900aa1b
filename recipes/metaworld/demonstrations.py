"""Demonstrations of scripted experts: seeded, successes alone, and continued where a run was killed."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vega3d.files import is_free, read_json, write_json
from vega3d.journals import Journal, check_same_header, journal_path, open_journal
from vega3d.robotics.episode_writer import EpisodeWriter
from vega3d.robotics.metaworld import ACTION_NAMES, FIRST_SEED, FPS, INSTRUCTIONS, STATE_NAMES
from vega3d.robotics.runners import Job, Plan, run_jobs
from vega3d.runs import versions

SEEDS = "meta/seeds.json"  # which seeds the expert was recorded from, and where it failed
FORMAT = "vega3d-demonstrations-1"


def record_demonstrations(
    output: Path,
    make: functools.partial,
    tasks: Sequence[str],
    episodes: int,
    most_steps: int,
    processes: int = 1,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Records `episodes` successes of the expert for each task, from the seeds 0, 1, 2, ...

    The data set depends neither on the number of processes, nor on whether the run was killed and continued.

    Args:
        output: folder of the data set. One that is finished, and of the same settings, is left as it is.
        make: gives the environment of a task.

    Returns:
        The values of `meta/seeds.json`.

    Raises:
        ValueError: if the folder holds something else, or demonstrations of other settings; if the expert fails so
            often that the seeds of demonstrations do not suffice.
    """
    header: dict[str, Any] = {"format": FORMAT, "tasks": list(tasks), "episodes": episodes, "most_steps": most_steps}
    header |= {
        "environment": json.loads(json.dumps(make.keywords)),
        "versions": versions("metaworld", "mujoco", "numpy", "av"),
    }
    if (output / SEEDS).is_file():
        finished = read_json(output / SEEDS)
        check_same_header({name: finished.get(name) for name in header}, header, output / SEEDS)
        return finished
    journal_file = journal_path(output)
    if not is_free(output) and not journal_file.exists():
        raise ValueError(f"{output} holds what this command has not begun. Give a new folder.")
    plan = Plan(make, "expert", most_steps, record=True)
    with (
        open_journal(journal_file, header) as (trials, journal),
        EpisodeWriter(output, FPS, "sawyer", STATE_NAMES, ACTION_NAMES, make.keywords.get("every", 1)) as writer,
    ):
        on_progress(sum(trial["success"] for trial in trials.values()))
        for task in tasks:
            record_task(plan, task, episodes, processes, trials, journal, writer, on_progress)
    found = header | {"seeds": {task: seeds_of(task, trials) for task in tasks}}
    found["steps"] = sum(trial["steps"] for trial in trials.values() if trial["success"])
    write_json(output / SEEDS, found)
    journal_file.unlink()
    return found


def record_task(
    plan: Plan,
    task: str,
    episodes: int,
    processes: int,
    trials: dict[str, Any],
    journal: Journal,
    writer: EpisodeWriter,
    on_progress: Callable[[int], None],
) -> None:
    """The demonstrations of one task that are missing; each trial is added to `trials` and the journal."""
    while missing := episodes - len(seeds_of(task, trials)["recorded"]):
        tried = sum(map(len, seeds_of(task, trials).values()))
        if tried + missing > FIRST_SEED:
            raise ValueError(
                f"The expert of {task} did it {episodes - missing} times from {tried} seeds, but demonstrations have "
                f"the seeds below {FIRST_SEED}. Give fewer --episodes, more --most-steps, or other --tasks."
            )
        jobs = [Job(task, seed) for seed in range(tried, tried + missing)]
        for episode, recording in run_jobs(plan, jobs, processes):
            recorded = sum(trial["success"] for trial in trials.values())
            if recording is not None and len(writer) == recorded:  # else it was written just before a kill
                writer.write(recording.frames, recording.states, recording.actions, INSTRUCTIONS[task])
            trial = {f"{task} {episode.seed}": {"success": episode.success, "steps": episode.steps}}
            journal.append({"answers": trial})
            trials |= trial
            on_progress(int(episode.success))


def seeds_of(task: str, trials: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """The seeds from which the expert did a task, and those from which it failed."""
    seeds: dict[str, list[int]] = {"recorded": [], "failed": []}
    for name, trial in trials.items():
        of, _, seed = name.rpartition(" ")
        if of == task:
            seeds["recorded" if trial["success"] else "failed"].append(int(seed))
    return seeds
