"""Worker processes end with their caller, however it ends, and leave nothing behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("embreex")
if not Path("/proc/self/stat").exists():
    pytest.skip("processes are looked for in /proc", allow_module_level=True)

GONE = 5.0  # [s]
SYNTHESIZE = ["-m", "vega3d_cli", "synthesize", "OUT", "--scenes", "400", "--workers", "2", "--size", "128"]
STREAM = """
from vega3d.rooms.dataset.stream import stream_clips
for clip in stream_clips("train", workers=2, renderer="embree", quality="fast", trajectories=2, num_frames=4, size=64):
    print(clip.seed, flush=True)
"""


def status(process: int) -> list[str]:
    """State and parent of a process, and so on; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def descendants(process: int) -> list[int]:
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    children = [number for number in numbers if status(number)[1:2] == [str(process)]]
    return [*children, *(found for child in children for found in descendants(child))]


def is_alive(process: int) -> bool:
    return status(process)[:1] not in ([], ["Z"])


def start(arguments: list[str], folder: Path) -> subprocess.Popen:
    command = [sys.executable, *(str(folder / "out") if one == "OUT" else one for one in arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=folder,
        # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_workers(process: subprocess.Popen) -> list[int]:
    """Two workers and the process that keeps account of semaphores."""
    deadline = time.monotonic() + 120
    while len(found := descendants(process.pid)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) == 3, process.communicate()
    return found


def shared_memory_of(processes: list[int]) -> set[int]:
    """Inodes of shared memory that processes have mapped (semaphores are renamed after that)."""
    inodes: set[int] = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            maps = Path(f"/proc/{process}/maps").read_text()
            inodes |= {int(inode) for inode in re.findall(r"(\d+)\s+/dev/shm/", maps)}
    return inodes


def left_in_memory(inodes: set[int]) -> list[str]:
    """Names that still lead to shared memory; what other tests have there is not asked for."""
    return [entry.name for entry in os.scandir("/dev/shm") if entry.inode() in inodes]


def test_semaphores_of_a_process_are_seen():
    code = "import multiprocessing as m; kept = m.get_context('spawn').Semaphore(); print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()

    assert left_in_memory(shared_memory_of([process.pid]))
    process.communicate(b"\n")


def end_and_look(process: subprocess.Popen, how: signal.Signals, workers: list[int]) -> tuple[int, str]:
    """Ends it as a terminal, a supervisor or the system would; returns exit code and standard error.

    Fails if a worker outlives it, or shared memory of any of them stays.
    """
    shared = shared_memory_of([process.pid, *workers])
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # Ctrl-C goes to all processes
    else:
        process.send_signal(how)
    process.wait(30)
    deadline = time.monotonic() + GONE
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if is_alive(worker)]
    assert not left_in_memory(shared)
    return process.returncode, process.communicate()[1]


@pytest.mark.parametrize(
    ("arguments", "how", "code", "told"),
    [
        (SYNTHESIZE, signal.SIGINT, 130, "interrupted\n"),
        (["-c", STREAM], signal.SIGKILL, -signal.SIGKILL, ""),
        pytest.param(["-c", STREAM], signal.SIGTERM, -signal.SIGTERM, "", marks=pytest.mark.stress),
        pytest.param(SYNTHESIZE, signal.SIGTERM, 143, "", marks=pytest.mark.stress),
        pytest.param(SYNTHESIZE, signal.SIGKILL, -signal.SIGKILL, "", marks=pytest.mark.stress),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else None,
)
def test_workers_that_are_still_starting_end_with_their_caller(tmp_path, arguments, how, code, told):
    process = start(arguments, tmp_path)
    workers = wait_for_workers(process)

    ended = end_and_look(process, how, workers)

    assert ended == (code, told)


@pytest.mark.stress
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_workers_that_are_busy_end_with_their_caller_and_the_run_goes_on(tmp_path, how, seconds):
    process = start(SYNTHESIZE, tmp_path)
    workers = wait_for_workers(process)
    while not list((tmp_path / "out").glob("scenes/*.json")):
        time.sleep(0.02)
    time.sleep(seconds)

    code, told = end_and_look(process, how, workers)

    assert code in (130, 143, -signal.SIGKILL)
    told = "".join(line for line in told.splitlines(keepends=True) if " rooms after " not in line)  # of a slow machine
    assert told == ("interrupted\n" if how is signal.SIGINT else "")
    names = " ".join(path.name for path in (tmp_path / "out").rglob("*"))
    begun = 1 + max(map(int, re.findall(r"train_(\d{6})_", names)))  # what a killed worker left goes with its room
    again = [{"OUT": str(tmp_path / "out"), "400": str(begun)}.get(one, one) for one in SYNTHESIZE]
    subprocess.run([sys.executable, *again], check=True, capture_output=True)
    assert not list((tmp_path / "out").rglob(".*"))
