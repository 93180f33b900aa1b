"""Code in a process of its own that need not import torch: a fork of one that has imported nothing of Hugging Face.

Its environment, folder, arguments and paths are its own, as are all that transformers, huggingface_hub and vega3d read
when they are imported. What is read earlier (a hash seed, Python's own options) is not; this needs a new process.

python tests/forks.py   # reads jobs, one a line of JSON, and answers each with the exit code
"""

import atexit
import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping
from pathlib import Path

HUGGING_FACE = {"vega3d", "vega3d_cli", "transformers", "huggingface_hub", "diffusers", "peft", "accelerate"}
SECONDS = 300  # that a job may take


@functools.cache
def server() -> subprocess.Popen:
    """The process that forks, one for all tests of this one."""
    command = [sys.executable, "-I", __file__]
    forking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(forking.communicate)
    return forking


def run_forked(
    code: str, *arguments: str, folder: Path | None = None, environment: Mapping[str, str], input: str = ""
) -> subprocess.CompletedProcess:
    """How `python -c code` ends with this environment, in this folder, and what it writes."""
    forking = server()
    assert forking.stdin is not None and forking.stdout is not None
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: os.path.join(scratch, name) for name in ("stdin", "stdout", "stderr")}
        Path(files["stdin"]).write_text(input)
        job = {"code": code, "arguments": arguments, "folder": str(folder or Path.cwd()), "files": files}
        forking.stdin.write(json.dumps({**job, "environment": dict(environment)}) + "\n")
        forking.stdin.flush()
        if not select.select([forking.stdout], [], [], SECONDS)[0]:
            forking.kill()
            server.cache_clear()
            raise TimeoutError(f"Not done after {SECONDS} s: {code}")
        code_of_exit = int(forking.stdout.readline())
        stdout, stderr = (Path(files[name]).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(code, code_of_exit, stdout, stderr)


def run_job(job: dict) -> int:
    """Runs the code of a job in this process, as its main module; the exit code."""
    for place, (name, flags) in enumerate((("stdin", os.O_RDONLY), ("stdout", NEW_FILE), ("stderr", NEW_FILE))):
        os.dup2(os.open(job["files"][name], flags), place)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.path[:0] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["-c", *job["arguments"]]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(compile(job["code"], "<string>", "exec"), sys.modules["__main__"].__dict__)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def fork(job: dict) -> int:
    """Runs a job in a fork of this process; the exit code, or less than 0 after a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = run_job(job)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):  # closed
                stream.flush()
    finally:
        os._exit(code)


def serve() -> None:
    """Imports what takes most of the time and is the same for all, then forks for each line of standard input."""
    import gc

    gc.disable()  # it would take a fifth of the time of an import
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        import av  # noqa: F401
        import bitsandbytes  # noqa: F401
        import httpx  # noqa: F401
        import rich.console  # noqa: F401
        import scipy.optimize
        import scipy.stats  # noqa: F401
        import tokenizers  # noqa: F401
        import typer  # noqa: F401
    loaded = {name.partition(".")[0] for name in sys.modules} & HUGGING_FACE
    assert not loaded, loaded
    answers, jobs = sys.stdout, sys.stdin
    for line in jobs:
        print(fork(json.loads(line)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
