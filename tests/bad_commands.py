"""Commands that are given bad values or files: the cases of a table, and what each command must then do.

One line, exit code 2, nothing left behind, no file of the user touched.
"""

import faulthandler
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import vega3d_cli
from bad_values import own_device, special_files

SECONDS = 10  # [s] of the processor that a refusal may take
HANGS = 60  # [s] after which the whole run is ended with a traceback: a read of a pipe cannot be interrupted
TICK = 0.012  # [s] for which the time that the system gives to changes may stand still
SPECIAL = ("pipe", "socket", "folder", "loop", "device-link", "hanging-link")

Damages = dict[str, Callable[[bytes], bytes]]
Options = dict[str, tuple[list[str], dict[str, tuple[str, ...]]]]  # command -> a good command line, its bad options
Files = dict[str, tuple[list[str], Damages, tuple[str, ...]]]
"""File -> the command that reads it, its kinds of damage, and those that do it no harm."""


def argument_cases(options: Options, arguments: Iterable[list[str]]) -> list:
    """Command lines, each with a name."""
    cases = []
    for command, (valid, by_option) in options.items():
        for option, values in by_option.items():
            cases += [
                pytest.param([*valid, option, value], id=f"{command} {option} {shown(value)}") for value in values
            ]
    for line in arguments:
        cases.append(pytest.param(line, id=" ".join(shown(word) for word in line) or "nothing"))
    return cases


def file_cases(files: Files) -> list:
    """Names of files, each with a kind of damage."""
    return [
        pytest.param(file, kind, id=f"{file} {kind}")
        for file, (_, damages, harmless) in files.items()
        for kind in (*(name for name in damages if name not in harmless), *SPECIAL)
    ]


def shown(value: str) -> str:
    return (value if len(value) < 40 else f"{value[:20]}...{len(value)}").encode("unicode_escape").decode() or "''"


def check_argument(arguments: list[str], folder: Path, capsys, *application) -> None:
    """`application`, if it is not `vega3d`: the Typer object and its name."""
    before = snapshot(folder)

    check_refused([in_place(word) for word in arguments], capsys, *application)

    assert snapshot(folder) == before


def check_file(path: Path, kind: str, files: Files, folder: Path, capsys, *application) -> None:
    """Of a good file in `folder`, which is there again afterwards."""
    command, damages, _ = files[str(path.relative_to(folder))]
    kept = folder / "kept"
    path.rename(kept)
    try:
        replace_by(path, kind, damages, kept.read_bytes())
        before = snapshot(folder)

        check_refused(command, capsys, *application)

        assert snapshot(folder) == before
    finally:
        remove(path)
        kept.rename(path)


def check_refused(arguments: list[str], capsys, *application) -> None:
    faulthandler.dump_traceback_later(HANGS, exit=True, file=sys.__stderr__)
    began = time.process_time()
    try:
        code = vega3d_cli.run(arguments, *application)
    finally:
        faulthandler.cancel_dump_traceback_later()
    took = time.process_time() - began
    captured = capsys.readouterr()

    assert code == 2, f"exit code {code}: {captured.out[-300:]}{captured.err[-300:]}"
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err[-2000:]
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 3000
    assert took < SECONDS


def snapshot(folder: Path) -> dict[str, tuple]:
    """All that is in a folder: kinds, lengths, and times, of which nobody can set back that of the last change.

    It is taken so long after the last change that another one has another time.
    """
    found = {entry.path: (entry, entry.stat(follow_symlinks=False)) for entry in entries(folder)}
    newest = max((status.st_ctime for _, status in found.values()), default=0.0)
    time.sleep(max(0.0, min(newest + TICK - time.time(), TICK)))
    return {
        path: (status.st_mode, regular_file(status) if entry.is_file(follow_symlinks=False) else None)
        for path, (entry, status) in found.items()
    }


def regular_file(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def entries(folder: str | Path) -> Iterator[os.DirEntry]:
    """What is in a folder, and in those within it; links are not followed."""
    with os.scandir(folder) as inside:
        for entry in inside:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from entries(entry.path)


def in_place(word: str) -> str:
    """The path that a kind of `bad_values.special_files` stands for."""
    paths = {
        "empty text": "",
        "device": str(own_device()),
        "endless device": "/dev/zero",
        "under a file": "regular/x",
        "in no folder": "none/x",
        "long name": "x" * 300,
        "long path": "/".join(["x" * 200] * 30),
        "unicode in no folder": "nïché\n☃/x",
    }
    return paths.get(word, word)


def replace_by(path: Path, kind: str, damages: Damages, good: bytes) -> None:
    if kind in damages:
        path.write_bytes(damages[kind](good))
        return
    scratch = path.parent / "scratch"
    scratch.mkdir()
    made = special_files(scratch)[kind]
    made.rename(path)
    if kind == "loop":
        path.unlink()
        path.symlink_to(path)
    shutil.rmtree(scratch)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
