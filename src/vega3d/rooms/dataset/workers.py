"""Numbered jobs for worker processes, whose arrays come back through shared memory, in the order of their numbers.

The memory has no name: its descriptor travels through the worker's socket, so that nothing stays, whatever is killed.
It needs Linux; jobs without arrays need no memory, and run elsewhere, too. Workers end with their caller, however it
ends, and leave Ctrl-C to it.
"""

import mmap
import multiprocessing
import os
import pickle
import runpy
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from multiprocessing import connection as connections
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

ALIGNMENT = 64  # bytes, of each array
PATIENCE = 10.0  # [s], for a worker to end
START = Path(__file__).with_name("worker_start.py")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Result(NamedTuple):
    """What a worker made of one number."""

    number: int  # the one that the job was called with
    info: Any  # what the job gives beside arrays: small things, which are pickled
    arrays: list[np.ndarray]  # views of one block of shared memory, which lives as long as any of them


Made = TypeVar("Made")
Job = Callable[[int], tuple[object, list[np.ndarray]]]


def run_in_order(
    job: Job,
    numbers: Iterator[int],
    workers: int,
    prefetch: int,
    *,
    initializer: Callable[[], None] | None = None,
    own_threads: bool = False,
    finish: bool = False,
) -> Generator[Result, None, None]:
    """Yields what workers make of numbers, in the order of the numbers; closed, it ends them.

    Args:
        job: makes small things and arrays of a number; is pickled, and called in the workers.
        numbers: what the job is called with; may never end.
        workers: processes that are started.
        prefetch: jobs that are done or waiting beyond the `workers` that are being done.
        initializer: called in each worker before its jobs.
        own_threads: whether a worker computes with as many threads as this process does, not with one.
        finish: whether closing the iterator lets jobs that are begun end; else they are cut off.

    Raises:
        Exception: what a job raised, when its turn comes.
        RuntimeError: if a worker was ended from outside.
    """
    pool = _Pool((serve, job, initializer), workers, own_threads)
    try:
        order: deque[int] = deque()
        done: dict[int, Result | BaseException] = {}
        while True:
            while len(order) < workers + prefetch and (number := next(numbers, None)) is not None:
                pool.submit(number)
                order.append(number)
            if not order:
                return
            done.update(pool.collect(wait=order[0] not in done))
            if order[0] in done:
                result = done.pop(order.popleft())
                if isinstance(result, BaseException):
                    raise result
                yield result
                del result  # else it would outlive its reader by one turn
    except GeneratorExit:
        if finish:
            pool.wait_for_begun()
        raise
    finally:
        pool.kill()


def run_all(
    make: Callable[[int], Made],
    count: int,
    workers: int,
    initializer: Callable[[], None] | None = None,
    first: int = 0,
) -> Generator[Made, None, None]:
    """The results for `count` numbers from `first` on, in this order.

    With several workers, `make` and its results are pickled.

    Each worker calls `initializer` first. Closed, it calls off what is not begun; an error or a signal ends the
    workers at once.
    """
    if workers == 1:
        yield from map(make, range(first, first + count))
        return
    job = partial(without_arrays, make)
    numbers = iter(range(first, first + count))
    results = run_in_order(
        job, numbers, min(workers, count), workers, initializer=initializer, own_threads=True, finish=True
    )
    with closing(results):
        for result in results:
            yield result.info


def without_arrays(make: Callable[[int], Made], number: int) -> tuple[Made, list[np.ndarray]]:
    return make(number), []


class _Worker:
    """One process, what it has been given to do, and the socket to it."""

    def __init__(self, work: bytes):
        # A forked process inherits locks of threads that it does not have (torch, FFmpeg) and can wait for them for
        # ever.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        given = {"CONNECTION": theirs, "WORK": work}
        self.process = context.Process(target=runpy.run_path, args=(str(START), given), daemon=True)
        self.process.start()
        theirs.close()
        self.numbers: set[int] = set()

    def receive(self) -> Result | tuple[int, BaseException]:
        try:
            number, info, layout = self.connection.recv()
            if layout is None:
                result: Result | tuple[int, BaseException] = (number, info)
            else:
                result = Result(number, info, self._mapped(layout) if layout else [])
        except (EOFError, OSError, RuntimeError) as error:
            self.process.join(PATIENCE)
            raise RuntimeError(
                f"A worker ended with exit code {self.process.exitcode} while it had rooms {sorted(self.numbers)}. "
                "Look for a lack of memory, and use fewer workers."
            ) from error
        self.numbers.discard(number)
        return result

    def _mapped(self, layout: list[tuple]) -> list[np.ndarray]:
        descriptor = reduction.recv_handle(self.connection)
        try:
            block = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        return [
            np.frombuffer(block, dtype, int(np.prod(shape)), offset).reshape(shape) for dtype, shape, offset in layout
        ]


class _Pool:
    """Processes that do numbered jobs, each the next one that it is given."""

    def __init__(self, work: tuple, workers: int, own_threads: bool):
        self._workers: list[_Worker] = []
        pickled = pickle.dumps(work)
        try:
            with _undisturbed(), nullcontext() if own_threads else _one_thread_each():
                for _ in range(workers):
                    self._workers.append(_Worker(pickled))
        except BaseException:
            self.kill()
            raise

    def submit(self, number: int) -> None:
        """Gives a job to a worker that has fewest."""
        worker = min(self._workers, key=lambda worker: len(worker.numbers))
        worker.numbers.add(number)
        with suppress(OSError):  # a worker that ended is noticed, with its exit code, by `collect`
            worker.connection.send(number)

    def collect(self, wait: bool) -> dict[int, Result | BaseException]:
        """What the workers have done, after waiting for one of them if there is to be something."""
        owners = {worker.connection: worker for worker in self._workers}
        ready = connections.wait(list(owners), None if wait else 0)
        results = [owners[one].receive() for one in ready if isinstance(one, Connection)]
        return {result[0]: result if isinstance(result, Result) else result[1] for result in results}

    def wait_for_begun(self) -> None:
        """Waits for the jobs that are begun; a worker that cannot hand over what it made ends."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join()

    def kill(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers = []


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends, as a worker that is half started would report them at length.

    Workers that start in it do not see Ctrl-C at all.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers, nor is interrupted
        for awaited in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(awaited) is not None:
                before[awaited] = signal.signal(awaited, lambda number, frame: came.append(number))
    resource_tracker.ensure_running()  # here, because its start lets signals through again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # is inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start now use one thread each: they read these variables when they load numpy."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(connection: Connection, job: Job, initializer: Callable[[], None] | None) -> None:
    """A worker: does jobs until its caller is gone (`worker_start`)."""
    if initializer is not None:
        initializer()
    with suppress(EOFError, ConnectionError):
        while True:
            number = connection.recv()
            try:
                info, arrays = job(number)
            except Exception as error:
                connection.send((number, _portable(error), None))
            else:
                _send(connection, number, info, arrays)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as text, as tracebacks cannot be pickled; another one if it cannot be either."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(text)
    copy.add_note(f"In a worker:\n{text}")
    return copy


def _send(connection: Connection, number: int, info: object, arrays: list[np.ndarray]) -> None:
    if not arrays:
        connection.send((number, info, []))
        return
    layout, size = [], 0
    for array in arrays:
        layout.append((array.dtype, array.shape, size))
        size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    with os.fdopen(os.memfd_create("vega3d"), "wb+", buffering=0) as file:
        file.truncate(max(size, 1))
        with mmap.mmap(file.fileno(), max(size, 1)) as block:
            for array, (_, _, offset) in zip(arrays, layout, strict=True):
                view = np.frombuffer(block, array.dtype, array.size, offset).reshape(array.shape)
                view[...] = array
                del view  # a block with views cannot be closed
        connection.send((number, info, layout))
        reduction.send_handle(connection, file.fileno(), os.getppid())
