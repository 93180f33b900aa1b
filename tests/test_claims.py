"""Each "same bytes", "bit for bit" and "the same" of the documentation, where it is hard to keep.

The claims are made in processes that differ in what must not matter (hash seed, locale, time zone, umask, order,
random state), while every core is busy: they run all at once, and `make stress` adds processes that only work.
"""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claims_jobs import CLAIMS, SLOW_CLAIMS

TESTS = Path(__file__).parent
SURROUNDINGS = (  # the processes differ in all of it at once
    {"umask": 0o022, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    {"umask": 0o077, "PYTHONHASHSEED": "4242", "LC_ALL": "C", "TZ": "Asia/Kathmandu"},
    {"umask": 0o002, "PYTHONHASHSEED": "random", "LC_ALL": "en_US.UTF-8", "TZ": "America/New_York"},
)
REPETITIONS = 30  # of `make stress`, over the processes


def work_for_ever() -> None:
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def busy_cores(number: int) -> Iterator[None]:
    """So many processes that do nothing but work."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work_for_ever, daemon=True) for _ in range(number)]
    for worker in workers:
        worker.start()
    yield
    for worker in workers:
        worker.kill()
        worker.join()


@pytest.fixture
def busy_machine():
    with busy_cores(os.cpu_count() or 1):
        yield


def start(claims: list[str], surroundings: dict, folder: Path, repetitions: int) -> subprocess.Popen:
    variables = {name: value for name, value in surroundings.items() if name != "umask"}
    paths = os.pathsep.join([str(TESTS), *sys.path])
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "TMPDIR": str(folder)}
    command = [sys.executable, str(TESTS / "claims_jobs.py"), json.dumps(claims), str(folder), str(repetitions)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder, umask=surroundings["umask"]
    )


def hashes_of(claims: list[str], folder: Path, repetitions: int) -> dict[str, list[str]]:
    """For each claim the hashes of all processes."""
    processes = []
    for number, surroundings in enumerate(SURROUNDINGS):
        place = folder / str(number)
        place.mkdir()
        processes.append(start(claims, surroundings, place, repetitions))
    told = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(SURROUNDINGS)
    found = [json.loads(lines[-1]) for lines in told]
    return {name: [value for one in found for value in one[name]] for name in claims}


@pytest.fixture(scope="module")
def hashes(tmp_path_factory) -> dict[str, list[str]]:
    with busy_cores(max(0, (os.cpu_count() or 1) - len(SURROUNDINGS))):
        return hashes_of(list(CLAIMS), tmp_path_factory.mktemp("claims"), 1)


@pytest.mark.parametrize("claim", CLAIMS)
def test_it_is_the_same_in_other_processes_under_load(claim, hashes):
    assert len(hashes[claim]) == len(SURROUNDINGS)
    assert len(set(hashes[claim])) == 1


@pytest.mark.stress
def test_it_is_the_same_many_times_under_load(busy_machine, tmp_path):
    many = hashes_of(list(CLAIMS), tmp_path, -(-REPETITIONS // len(SURROUNDINGS)))

    assert all(len(found) >= REPETITIONS for found in many.values())
    assert {name: len(set(found)) for name, found in many.items()} == dict.fromkeys(CLAIMS, 1)


@pytest.mark.stress
def test_a_data_set_is_the_same_under_load_whatever_the_number_of_workers(busy_machine, tmp_path):
    many = hashes_of(list(SLOW_CLAIMS), tmp_path, 3)

    assert len({value for found in many.values() for value in found}) == 1
