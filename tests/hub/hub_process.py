"""The stand-in Hub in a process of its own, and its clients, which are processes as the address is read at import."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from forks import run_forked

SERVER = Path(__file__).with_name("hub_server.py")
ASKED = "asked.txt"  # beside the organisations: each file that was asked for, one a line


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a Hub that holds root/org/name as org/name."""
    server = subprocess.Popen([sys.executable, str(SERVER), str(root)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


def run(hub: tuple[str, Path], code: str, home: Path) -> str:
    """Standard output of code that talks to the Hub, with a cache of its own."""
    environment = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    environment.pop("HF_HUB_OFFLINE", None)
    result = run_forked(code, environment=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def files_asked(root: Path) -> set[str]:
    """Files that clients asked for since the Hub began, as org/name/file."""
    log = root / ASKED
    return set(log.read_text().splitlines()) if log.is_file() else set()


def arrange(root: Path, **values) -> None:
    """What goes wrong at the Hub from now on.

    `faults`: each `path` (a part of it), `method`, `times`, and the answer: a `status`, or `cut` after which bytes the
    connection ends, or with `dies` the server, once as many LFS objects have arrived as `after` says. `gated`,
    `private`: repositories. `lfs`: large files are LFS objects.
    """
    (root / "hub.json").write_text(json.dumps(values))


def talk_to(address: str, home: Path, patch: pytest.MonkeyPatch, token: str | None = "hf_write") -> None:
    """Lets the client in this process talk to a Hub, as its environment would at its start; without Xet."""
    values = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
    }
    for name, value in values.items():
        patch.setattr(constants, name, value)
    if token is None:
        patch.delenv("HF_TOKEN", raising=False)
    else:
        patch.setenv("HF_TOKEN", token)


def noted(root: Path, name: str) -> list[str]:
    """Lines that the Hub has written into one of its logs, such as `commits.jsonl`."""
    file = root / name
    return file.read_text().splitlines() if file.is_file() else []
