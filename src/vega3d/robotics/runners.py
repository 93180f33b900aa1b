"""Processes that run episodes: each has a simulator, and the policy of a model answers all of them from one place.

Which process runs an episode, and how many there are, changes nothing of its result.
"""

import multiprocessing
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import numpy as np

from vega3d.robotics.closed_loop import BASELINES, ActionPolicy, Environment, Episode, Observation, run_episode

MakeEnvironment = Callable[[str], Any]  # an `Environment` of a task; it is sent to other processes


@dataclass(frozen=True)
class Job:
    """An episode to run: a task, and the seed of its initial state."""

    task: str
    seed: int


@dataclass(frozen=True)
class Recording:
    """What a robot saw and did in an episode of T steps.

    Attributes:
        frames: uint8[T, H, W, 3] of each view.
        states: float32[T, P].
        actions: float32[T, A], as they were carried out.
    """

    frames: dict[str, np.ndarray]
    states: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How the episodes of a run are made.

    Attributes:
        make: gives the environment of a task.
        baseline: name of the policy in `BASELINES`; None asks the policy of a model.
        most_steps, execute, frames: of `run_episode`.
        record: whether successful episodes are recorded.
    """

    make: MakeEnvironment
    baseline: str | None = None
    most_steps: int | None = None
    execute: int | None = None
    frames: int = 1
    record: bool = False


def run_jobs(
    plan: Plan, jobs: Sequence[Job], processes: int = 1, policy: ActionPolicy | None = None
) -> Generator[tuple[Episode, Recording | None], None, None]:
    """The episodes of all jobs, in their order, and what was recorded of those that succeeded.

    Args:
        policy: of a model, which is asked in this process, if the plan names no baseline.

    Raises:
        RuntimeError: with what went wrong in another process, or if one has ended.
    """
    context = multiprocessing.get_context("spawn")  # a renderer does not survive a fork
    runners: dict[Connection, Any] = {}
    try:
        for _ in range(min(processes, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=run, args=(theirs, plan), daemon=True)
            process.start()
            theirs.close()
            runners[ours] = process
        yield from in_order(answered(runners, jobs, policy), len(jobs))
    finally:
        for connection, process in runners.items():
            connection.close()
            process.terminate()
            process.join()


def in_order(done: Iterator[tuple[int, Any]], count: int) -> Iterator[Any]:
    """Values by their number, which come in any order."""
    waiting: dict[int, Any] = {}
    for number in range(count):
        while number not in waiting:
            key, value = next(done)
            waiting[key] = value
        yield waiting.pop(number)


def answered(
    runners: Mapping[Connection, Any], jobs: Sequence[Job], policy: ActionPolicy | None
) -> Iterator[tuple[int, Any]]:
    """Number and result of each job as it is done; meanwhile the policy answers."""
    open_jobs = iter(enumerate(jobs))
    running: dict[Connection, int] = {}

    def give(connection: Connection) -> None:
        number, job = next(open_jobs, (None, None))
        if number is not None:
            running[connection] = number
            connection.send(job)

    for connection in runners:
        give(connection)
    while running:
        for ready in wait(list(running)):
            connection = cast(Connection, ready)
            kind, value = received(connection, runners, jobs[running[connection]])
            if kind == "observation":
                assert policy is not None
                connection.send(policy.predict_actions(*value))
            elif kind == "error":
                raise RuntimeError(f"{jobs[running[connection]]}: {value}")
            else:
                yield running.pop(connection), value
                give(connection)


def received(connection: Connection, runners: Mapping[Connection, Any], job: Job) -> tuple[str, Any]:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError) as error:
        runners[connection].join()
        raise RuntimeError(f"{job}: its process ended with code {runners[connection].exitcode}.") from error


class Asking:
    """The policy of a model in another process."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        self._connection.send(("observation", (images, instruction, state)))
        return self._connection.recv()


def run(connection: Connection, plan: Plan) -> None:
    """What a process does: one job after another, until nobody gives it more."""
    environment: Environment | None = None
    try:
        while True:
            job: Job = connection.recv()
            if environment is None or environment.task != job.task:
                if environment is not None:
                    environment.close()
                environment = plan.make(job.task)
            connection.send(("done", run_job(environment, plan, job, connection)))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the run has ended
        pass
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        connection.send(("error", f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"))
    finally:
        if environment is not None:
            environment.close()


def run_job(
    environment: Environment, plan: Plan, job: Job, connection: Connection
) -> tuple[Episode, Recording | None]:
    policy: ActionPolicy = (
        Asking(connection) if plan.baseline is None else BASELINES[plan.baseline](environment, job.seed)
    )
    seen: list[tuple[Observation, np.ndarray]] = []

    def remember(observation: Observation, action: np.ndarray) -> None:
        seen.append((observation, action))

    on_step = remember if plan.record else None
    episode = run_episode(environment, policy, job.seed, plan.most_steps, plan.execute, plan.frames, on_step)
    return episode, recording_of(seen) if plan.record and episode.success else None


def recording_of(seen: Sequence[tuple[Observation, np.ndarray]]) -> Recording:
    observations, actions = zip(*seen, strict=True)
    frames = {view: np.stack([one.images[view] for one in observations]) for view in observations[0].images}
    return Recording(frames, np.stack([one.state for one in observations]), np.stack(actions))
