"""Files and folders that a command reads and makes. What it makes is whole or not there, and replaces nothing else.

A file is written into a temporary folder beside its place, handed to the disk, and then moved. The folder is locked
while its writer lives, so the next run knows what a killed one left behind, and removes it. The lock is a file of its
own: a writer may replace the file that it was given (safetensors does), and with it a lock on that.
"""

import contextlib
import json
import lzma
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from vega3d.extras import optional_module

if TYPE_CHECKING:
    import numpy as np

PARTIAL = ".partial"
LOCK = ".lock"
LOCK_SECONDS = 10
FOLDERS_TRIED = 20
TOKEN_LENGTH = 8  # of the random part of a temporary name
NAME_BYTES = 160  # of the longest file name, 255, so that a temporary name beside it fits, too
LONGEST_NAME = 255  # bytes
HEAD = 4096  # bytes, at the beginning or the end, in which a file says what made it
KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def check_output(
    path: str | Path, *inputs: str | Path | None, new_folders: bool = False, mark: bytes | None = None
) -> Path:
    """The regular file that an output goes to, links followed; asked before any work is done.

    Args:
        path: where the output is wanted.
        inputs: files that the command reads; none of them may be its output.
        new_folders: whether folders on the way may be missing; they are not made here.
        mark: what a file of the same command says at its beginning or end; another, unless empty, is not replaced.

    Returns:
        The absolute path, without links.

    Raises:
        ValueError: if it is a folder, a device, a named pipe, a socket or an input; if it may not be written, or its
            folder is not there; if a file of another making is there.
    """
    target = resolved(path)
    mode = file_mode(target)
    if mode is not None:
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder. Give a file in it, such as {Path(path) / 'result'}.")
        for is_kind, kind in KINDS:
            if is_kind(mode):
                raise ValueError(f"{path} is {kind}, which a file would replace. Give the name of a regular file.")
        if not os.access(target, os.W_OK):
            raise ValueError(f"{path} may not be written. Give another file, or change its permissions.")
        for source in inputs:
            if source is not None and os.path.exists(source) and os.path.samefile(source, target):
                raise ValueError(f"{path} is an input of this command and would be lost. Give another output.")
        if mark is not None and not is_marked(target, mark):
            raise ValueError(f"{path} is there, and was not made by this command. Give another output, or remove it.")
    check_writable_parent(target, path, new_folders)
    return target


def is_marked(file: Path, mark: bytes) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD)
        opened.seek(max(0, file.stat().st_size - HEAD))
        return not head or mark in head + opened.read()


def resolved(path: str | Path) -> Path:
    """The absolute path without links; raises ValueError for one that no file can have."""
    if not str(path) or "\0" in str(path):
        raise ValueError(f"The path {str(path)!r} is none that a file can have. Give the name of a file or folder.")
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to themselves
        raise ValueError(f"The path {path} cannot be followed: {error}. Give another one.") from error


def file_mode(path: Path) -> int | None:
    """The mode of what lies at a path, or None; raises ValueError if it cannot be asked for."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {os.strerror(error.errno or 0)}. Give another path.") from error


def check_writable_parent(target: Path, shown: str | Path, new_folders: bool) -> None:
    parent = target.parent
    while new_folders and file_mode(parent) is None and parent != parent.parent:
        parent = parent.parent
    mode = file_mode(parent)
    if mode is None:
        raise ValueError(f"There is no folder {parent} to write {target.name} into. Make it first.")
    if not stat.S_ISDIR(mode):
        raise ValueError(f"{parent} is no folder, so {shown} cannot be written. Give another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"The folder {parent} may not be written. Give another one for {target.name}.")


def check_input(path: str | Path) -> Path:
    """A regular file that is there and may be read, links followed: reading a pipe or a device might never end."""
    target = resolved(path)
    mode = file_mode(target)
    if mode is None:
        raise ValueError(f"There is no file {path}.")
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in KINDS if is_kind(mode)), "a folder")
        raise ValueError(f"{path} is {kind}. Give a regular file.")
    if not os.access(target, os.R_OK):
        raise ValueError(f"{path} may not be read. Change its permissions, or give another file.")
    return target


def read_json(path: str | Path, remedy: str = "Write it again, or give another file.") -> dict[str, Any]:
    """The names and values of a JSON file.

    Raises:
        ValueError: if it cannot be read, is no JSON, or holds something else than names with values; `remedy` ends it.
    """
    values = read_json_value(path, remedy)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, but must hold names with values. {remedy}")
    return values


def read_json_value(path: str | Path, remedy: str = "Write it again, or give another file.") -> Any:
    """What a JSON file holds; raises ValueError if it cannot be read or is no JSON, which ends with `remedy`."""
    try:
        return json.loads(check_input(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is nested too deeply. {remedy}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error} {remedy}") from error


def read_xz(path: str | Path, largest: int) -> bytes:
    """The content of an xz file; raises ValueError if it cannot be unpacked, or has more than `largest` bytes."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        content = unpacker.decompress(check_input(path).read_bytes(), largest + 1)
    except (OSError, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error
    if len(content) > largest:
        raise ValueError(f"{path} holds more than {largest:,} bytes, which is the most that is read")
    if not unpacker.eof:
        raise ValueError(f"{path} cannot be unpacked: it is cut short")
    return content


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table: of a `.parquet` file, or of JSON with one object a line, or (`.json`) one list of objects.

    Raises:
        ValueError: if it cannot be read; for JSON with the number of the line.
    """
    file = check_input(path)
    if path.suffix == ".parquet":
        parquet, pyarrow = optional_module("pyarrow.parquet"), optional_module("pyarrow")
        try:
            return parquet.read_table(file).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{path} cannot be read as parquet: {error}. Write or download it again.") from error
    rows = []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}. Write or download it again.") from error
    if path.suffix == ".json" and text.lstrip().startswith("["):
        return listed_rows(path, text)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}, is no JSON: {error}. Write or download it again.") from error
            if not isinstance(rows[-1], dict):
                kind = type(rows[-1]).__name__
                raise ValueError(f"{path}, line {number}, is a {kind}, which is no object with names and values.")
    return rows


def listed_rows(path: Path, text: str) -> list[dict[str, Any]]:
    """The objects of a list in JSON."""
    try:
        rows = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}. Write or download it again.") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ValueError(f"{path}, row {number}, is a {kind}, which is no object with names and values.")
    return rows


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary file to write into; it takes its place when the block ends, and is removed if that fails."""
    target = check_output(path)
    mode = file_mode(target)
    with partial_folder(target) as folder:
        partial = folder / target.name
        partial.touch()
        allowed = stat.S_IMODE(partial.stat().st_mode if mode is None else mode)
        yield partial
        partial.chmod(allowed)  # a writer that replaced it may have been stricter
        sync(partial)
        partial.replace(target)
    sync(target.parent)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder to write into; it takes its place when the block ends, and is removed if that fails."""
    target = check_new_folder(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(target) as partial:
        yield partial
        for file in partial.rglob("*"):
            sync(file)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
        (target / LOCK).unlink()
    sync(target.parent)


@contextlib.contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder to write into; its files move into a folder that is there when the block ends.

    Each file is whole or not there; of several files, a kill may leave some that are new and some that are old.
    """
    with partial_folder(folder) as partial:
        yield partial
        for file in sorted(partial.iterdir()):
            if file.name != LOCK:
                sync(file)
                file.replace(folder / file.name)
        sync(folder)


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """A new folder beside an output, locked, and removed at the end if it is still there."""
    remove_left_over(target)
    partial, lock = held_folder(target)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def held_folder(target: Path) -> tuple[Path, FileLock]:
    """A new folder beside an output, and its lock, which this process holds.

    Raises:
        ValueError: if every folder made is gone at once.
    """
    for _ in range(FOLDERS_TRIED):
        partial = partial_path(target)
        partial.mkdir()
        lock = FileLock(partial / LOCK, timeout=LOCK_SECONDS)
        # Another process that finds the lock free, between its making and its holding here, removes the folder.
        with contextlib.suppress(FileNotFoundError):
            lock.acquire()
            return partial, lock
    raise ValueError(f"{target} cannot be written: what is made beside it is removed. Give another folder.")


def is_free(path: Path) -> bool:
    """Whether a folder is not there yet, or holds nothing but the lock of a run."""
    return not path.exists() or (path.is_dir() and all(file.name == LOCK for file in path.iterdir()))


def check_new_folder(path: str | Path) -> Path:
    """The place of a folder that is to be made, links followed; asked before any work is done.

    Raises:
        ValueError: if something is there already, but for an empty folder; if it cannot be made.
    """
    target = resolved(path)
    mode = file_mode(target)
    if mode is not None and (not stat.S_ISDIR(mode) or any(target.iterdir())):
        raise ValueError(f"{path} is already there. Give a new folder, or empty it first.")
    check_writable_parent(target, path, new_folders=True)
    return target


def check_folder(path: str | Path) -> Path:
    """A folder to write into, links followed, there already or one that can be made; asked before any work is done.

    Raises:
        ValueError: if something else is there, it may not be written, or it cannot be made.
    """
    target = resolved(path)
    mode = file_mode(target)
    if mode is None:
        check_writable_parent(target, path, new_folders=True)
    elif not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is no folder. Give another one to write into.")
    elif not os.access(target, os.W_OK | os.X_OK):
        raise ValueError(f"The folder {path} may not be written. Give another one, or change its permissions.")
    return target


def partial_path(target: Path) -> Path:
    return target.with_name(f"{partial_prefix(target)}{secrets.token_hex(TOKEN_LENGTH // 2)}{PARTIAL}")


def partial_prefix(target: Path) -> str:
    return f".{target.name.encode(errors='surrogateescape')[:NAME_BYTES].decode(errors='ignore')}-"


def remove_left_over(target: Path) -> None:
    """Removes the temporary files and folders that killed writers of this output left beside it."""
    prefix = partial_prefix(target)
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and len(path.name) == len(prefix) + TOKEN_LENGTH + len(PARTIAL):
            remove_if_free(path)


def remove_all_left_over(folder: Path) -> None:
    """Removes the temporary folders of all outputs in a folder, and in those within it, whole outputs or not."""
    for path in list(folder.rglob(f".*-{'[0-9a-f]' * TOKEN_LENGTH}{PARTIAL}")):
        if path.is_dir():
            remove_if_free(path)
            with contextlib.suppress(OSError):
                path.rmdir()  # if it is empty: its writer was killed before the lock was there, or when it was gone


def remove_if_free(path: Path) -> None:
    """Removes a temporary file or folder unless its writer lives."""
    lock = path / LOCK if path.is_dir() else path
    if path.suffix != PARTIAL or path.is_symlink() or not lock.is_file():
        return
    with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def only_run(place: str | Path) -> Iterator[None]:
    """Holds an output while a run writes it, a folder or a file; raises ValueError if another run holds it.

    What writers of a killed run left in the folder is removed: a run that goes on may find an output whole beside
    which the temporary folder is still there, and does not write it again.
    """
    target = resolved(place)
    lock = target / LOCK if target.is_dir() else target.with_name(f".{target.name}{LOCK}")
    running = FileLock(lock, timeout=0)
    try:
        running.acquire()
    except Timeout as error:
        raise ValueError(f"Another run is writing {place}. Wait for it to end, or give another output.") from error
    try:
        if target.is_dir():
            remove_all_left_over(target)
        yield
    finally:
        lock.unlink(missing_ok=True)
        running.release()


def sync(path: Path) -> None:
    """Hands a file, or the names in a folder, to the disk, so that a power cut does not take them back."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file under a temporary name, as in `whole_file`; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        write(partial)


def write_json(path: Path, values: Any) -> None:
    """A whole JSON file, or none; NaN and infinity, which JSON lacks, raise ValueError."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_array(path: Path, array: "np.ndarray") -> None:
    """A whole .npy file, or none; missing folders are made."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("wb") as file:  # np.save would add .npy to a temporary name
        np.save(file, array)


def inside(folder: str | Path, name: str) -> Path:
    """The file of a folder that a table or a list names: none outside, whatever the table says.

    Raises:
        ValueError: for a name that is absolute or leads up, or that no file can have.
    """
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in name or PureWindowsPath(name).drive
    longest = max((len(part.encode(errors="surrogatepass")) for part in path.parts), default=0)
    if leads_out or "\0" in name or not 0 < longest <= LONGEST_NAME:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
        raise ValueError(f"{shown!r} names no file in {folder}. Name one by its path below that folder.")
    return Path(folder, name)
