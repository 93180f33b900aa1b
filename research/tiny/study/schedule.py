"""Commands that wait for one another, as many at once as the GPUs of a machine carry.

    FOLDER/NAME.log     what a command printed
    FOLDER/NAME.json    written when it is done: command, GPU, seconds

A command that is done is not begun again, so that the same call goes on where it was stopped; one that fails is begun
once more, since every command goes on from its checkpoint.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from research.tiny.study.loop import Deadline, OutOfTimeError
from vega3d.files import write_json

LOOK_EVERY = 0.2  # seconds
LOG_TAIL = 2000  # characters shown of a failed command
TASKS_OF_A_GPU = 5  # that may run beside each other and share the machine's cores
GRACE = 20  # seconds until a stopped command is killed
TRIES = 2  # of a command

Tell = Callable[[dict], None]


@dataclass(frozen=True)
class Task:
    """
    Args:
        name: of its files.
        command: program and arguments; a function if they depend on what earlier tasks left.
        needs: names of tasks that must be done.
        load: share of a GPU that it takes; 0 for a task that needs none.
        is_ready: asked before it is begun, beside `needs`.
    """

    name: str
    command: list[str] | Callable[[], list[str]]
    needs: tuple[str, ...] = ()
    load: float = 0.0
    is_ready: Callable[[], bool] = lambda: True

    def line(self) -> list[str]:
        return self.command() if callable(self.command) else self.command


@dataclass
class Running:
    task: Task
    line: list[str]
    gpu: str | None
    process: subprocess.Popen
    began: float


class Schedule:
    """
    Args:
        tasks: in the order in which they are preferred when several could begin.
        folder: for logs and for what is done.
        gpus: as CUDA_VISIBLE_DEVICES names them, the most preferred first; none for a machine without.
        at_once: most tasks that run at once on a machine without a GPU.
        deadline: after which all are stopped.
        tell: called with what happens, as plain values.

    Raises:
        ValueError: if a task needs one that there is not, or two have one name.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        folder: Path,
        gpus: Sequence[str] = (),
        at_once: int = 1,
        deadline: Deadline | None = None,
        tell: Tell | None = None,
    ):
        self.tasks = {task.name: task for task in tasks}
        missing = {need for task in tasks for need in task.needs} - self.tasks.keys()
        if missing or len(self.tasks) < len(tasks):
            raise ValueError(
                f"Tasks must have different names, and need tasks that there are; not: {sorted(missing)}."
            )
        self.folder, self.gpus, self.at_once = folder, list(gpus), at_once
        beside_each_other = TASKS_OF_A_GPU * len(gpus) or at_once
        self.threads = max(1, (os.cpu_count() or 1) // beside_each_other)
        self.deadline, self.tell = deadline or Deadline(), tell or (lambda values: None)
        self.running: dict[str, Running] = {}
        self.done: set[str] = set()
        self.failed: dict[str, int] = {}
        self.tries: Counter[str] = Counter()

    def run(self) -> None:
        """
        Raises:
            ValueError: when all that could be done is done, and a task has failed; names it and shows its log's end.
            OutOfTimeError: when the deadline has passed; commands were told to stop, and the same call goes on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done = {name for name in self.tasks if self._mark(name).is_file()}
        with self._stopped_at_the_end():
            while True:
                self._begin()
                if not self.running:
                    break
                self._collect()
                self.deadline.check(f"while {', '.join(self.running)} ran")
                time.sleep(LOOK_EVERY)
        if self.failed:
            name, status = next(iter(self.failed.items()))
            log = self._log(name).read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
            raise ValueError(f"{name} ended with exit status {status}; see {self._log(name)}, which ends: {log}")
        waiting = sorted(self.tasks.keys() - self.done)
        if waiting:
            raise ValueError(f"{', '.join(waiting)} never became ready.")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _mark(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _ready(self) -> Iterator[Task]:
        begun = self.done | self.running.keys() | self.failed.keys()
        for name, task in self.tasks.items():
            if name not in begun and self.done.issuperset(task.needs) and task.is_ready():
                yield task

    def _begin(self) -> None:
        for task in list(self._ready()):
            if not self.gpus:
                if len(self.running) < self.at_once:
                    self._start(task, None)
            elif task.load == 0:
                self._start(task, None)
            else:
                gpu = self._free_gpu(task.load)
                if gpu is not None:
                    self._start(task, gpu)

    def _free_gpu(self, load: float) -> str | None:
        """The GPU with the least to do, if the task fits there."""
        loads = {gpu: sum(one.task.load for one in self.running.values() if one.gpu == gpu) for gpu in self.gpus}
        gpu = min(self.gpus, key=lambda name: loads[name])
        return gpu if loads[gpu] + load <= 1.0 + 1e-9 else None

    def _start(self, task: Task, gpu: str | None) -> None:
        line = task.line()
        self.tries[task.name] += 1
        has_workers = bool(self.gpus) and gpu is None  # which are as many as there are processors
        environment = {"OMP_NUM_THREADS": "1" if has_workers else str(self.threads), **os.environ}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with self._log(task.name).open("ab") as log:
            process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.running[task.name] = Running(task, line, gpu, process, time.monotonic())
        self.tell({"began": task.name, "gpu": gpu})

    def _collect(self) -> None:
        for name, one in list(self.running.items()):
            status = one.process.poll()
            if status is None:
                continue
            del self.running[name]
            seconds = round(time.monotonic() - one.began, 1)
            if status == 0:
                self.done.add(name)
                write_json(self._mark(name), {"command": one.line, "gpu": one.gpu, "seconds": seconds})
            elif self.tries[name] >= TRIES:
                self.failed[name] = status
            self.tell({"done" if status == 0 else "failed": name, "gpu": one.gpu, "seconds": seconds})

    @contextmanager
    def _stopped_at_the_end(self) -> Iterator[None]:
        """Commands do not outlive this process: SIGTERM ends it as an exception does."""
        before = signal.signal(signal.SIGTERM, lambda number, frame: raise_(OutOfTimeError("SIGTERM")))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            for one in self.running.values():
                one.process.terminate()
            for one in self.running.values():
                try:
                    one.process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    one.process.kill()


def raise_(error: Exception) -> None:
    raise error
