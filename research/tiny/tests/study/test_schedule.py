"""Commands that wait for one another: order, GPUs, failures, and what a stopped schedule leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.tiny.study.loop import Deadline, OutOfTimeError
from research.tiny.study.schedule import Schedule, Task

WRITES = (
    "import os, sys, time; from pathlib import Path; began = time.time(); time.sleep({seconds});"
    "Path(r'{path}').write_text(f'{{began}} {{time.time()}} ' + os.environ.get('CUDA_VISIBLE_DEVICES', '-'))"
)


class Commands:
    """Tasks that write when they ran and where."""

    def __init__(self, folder: Path):
        self.folder = folder

    def task(self, name: str, *needs: str, load: float = 0.0, seconds: float = 0.5, **options) -> Task:
        program = WRITES.format(seconds=seconds, path=self.folder / name)
        return Task(name, [sys.executable, "-c", program], needs, load, **options)

    def span(self, name: str) -> tuple[float, float]:
        began, ended, _ = (self.folder / name).read_text().split()
        return float(began), float(ended)

    def gpu(self, name: str) -> str:
        return (self.folder / name).read_text().split()[2]

    def together(self, first: str, second: str) -> bool:
        (a, b), (c, d) = self.span(first), self.span(second)
        return max(a, c) < min(b, d)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Commands(tmp_path)


def test_tasks_wait_for_what_they_need_and_run_beside_the_rest(commands, tmp_path):
    tasks = [commands.task("last", "first"), commands.task("first"), commands.task("beside")]
    Schedule(tasks, tmp_path / "tasks", at_once=2).run()
    assert commands.span("last")[0] > commands.span("first")[1]
    assert commands.together("first", "beside")


def test_without_a_gpu_no_more_run_than_are_allowed(commands, tmp_path):
    Schedule([commands.task(name, seconds=0.2) for name in "abc"], tmp_path / "tasks", at_once=1).run()
    assert not any(commands.together(*pair) for pair in ("ab", "bc", "ac"))


def test_gpus_are_filled_up_to_their_whole_the_preferred_one_first(commands, tmp_path):
    tasks = [
        commands.task("large", load=1.0, seconds=1.5),
        commands.task("small", load=0.5, seconds=1.5),
        commands.task("other", load=0.5, seconds=1.5),
        commands.task("late", load=0.2),
        commands.task("none"),
    ]
    Schedule(tasks, tmp_path / "tasks", gpus=["3", "1"]).run()
    assert [commands.gpu(name) for name in ("large", "small", "other", "none")] == ["3", "1", "1", "-"]
    assert commands.span("late")[0] > min(commands.span(name)[1] for name in ("large", "small", "other"))


def test_a_command_that_fails_once_is_begun_again(tmp_path):
    program = (
        f"from pathlib import Path; path = Path(r'{tmp_path / 'tries'}'); tries = path.exists();"
        "path.write_text('x'); raise SystemExit(0 if tries else 4)"
    )
    told = []
    task = Task("flaky", [sys.executable, "-c", program])
    Schedule([task], tmp_path / "tasks", tell=told.append).run()
    assert [next(iter(values)) for values in told] == ["began", "failed", "began", "done"]


def test_a_failed_task_is_named_and_only_what_needs_it_is_left_undone(commands, tmp_path):
    broken = Task("broken", [sys.executable, "-c", "import sys; print('no such room'); sys.exit(2)"])
    tasks = [broken, commands.task("after", "broken"), commands.task("apart")]
    with pytest.raises(ValueError, match=r"(?s)broken ended with exit status 2.*no such room"):
        Schedule(tasks, tmp_path / "tasks", at_once=2).run()
    assert (tmp_path / "apart").exists() and not (tmp_path / "after").exists()


def test_what_is_done_is_not_done_again(commands, tmp_path):
    tasks = [commands.task("one"), commands.task("two", "one")]
    Schedule(tasks, tmp_path / "tasks").run()
    before = commands.span("one")
    (tmp_path / "tasks" / "two.json").unlink()
    (tmp_path / "two").unlink()
    Schedule(tasks, tmp_path / "tasks").run()
    assert commands.span("one") == before and (tmp_path / "two").exists()
    marked = json.loads((tmp_path / "tasks" / "two.json").read_text())
    assert marked["command"] == tasks[1].command and marked["seconds"] > 0


def test_commands_are_made_when_they_begin_and_wait_until_they_are_ready(commands, tmp_path):
    made = []

    def line() -> list[str]:
        made.append((tmp_path / "first").exists())
        return [sys.executable, "-c", ""]

    Schedule([Task("late", line, ("first",)), commands.task("first")], tmp_path / "tasks").run()
    assert made == [True]
    with pytest.raises(ValueError, match="never became ready"):
        Schedule([commands.task("never", is_ready=lambda: False)], tmp_path / "other").run()


def test_the_deadline_stops_what_runs(commands, tmp_path):
    tasks = [commands.task("long", seconds=60)]
    began = time.monotonic()
    with pytest.raises(OutOfTimeError, match="long"):
        Schedule(tasks, tmp_path / "tasks", deadline=Deadline(0.5)).run()
    assert time.monotonic() - began < 15 and not (tmp_path / "long").exists()


def test_commands_do_not_outlive_a_schedule_that_is_told_to_stop(tmp_path):
    program = (
        "import sys; from pathlib import Path; from research.tiny.study.schedule import Schedule, Task;"
        "code = 'import os, time; from pathlib import Path; '"
        "'Path(\"pid\").write_text(str(os.getpid())); time.sleep(60)';"
        "Schedule([Task('long', [sys.executable, '-c', code])], Path('tasks')).run()"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(pid.read_text())

    process.send_signal(signal.SIGTERM)

    assert process.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("tasks", [[("one", ("nothing",))], [("one", ()), ("one", ())]])
def test_tasks_that_cannot_be_are_refused(commands, tmp_path, tasks):
    with pytest.raises(ValueError, match="different names"):
        Schedule([commands.task(name, *needs) for name, needs in tasks], tmp_path / "tasks")
