"""Values and files that a user may give by mistake, by kind, for `test_bad_input.py`."""

import io
import json
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

TEXT_FOR_NUMBER = ("", "abc", "[1]", "null", "1,2", "0x10", "٣x", "--", "1e", "nan", "inf", "-inf")
INTEGER = (*TEXT_FOR_NUMBER, "1.5", "1e3", "9" * 400)
COUNT = (*INTEGER, "0", "-1")
POSITIVE = (*TEXT_FOR_NUMBER, "9" * 400, "0", "-1", "-0.0")
NAMES = ("", "zzz", "Ünïcode", "a/b/c", "../..", "null", "[]", "x" * 5000)
SEED = (*INTEGER, "-1")
DEVICES = ("", "zzz", "meta", "hpu", "privateuseone", "cuda:99", "cuda:-1", "cpu:x", "mps", "Ünïcode")
NOT_MODELS = ("", "zzz", "../..", "a/b/c", "pipe", "loop", "device", "socket", "folder", "org/none", "x" * 300)
DEEP = 100_000  # levels of brackets


@cache
def own_device() -> Path:
    """A character device that nobody else needs, should a mistake replace it: the end of a terminal of our own."""
    return Path(os.ttyname(os.openpty()[1]))


def special_files(folder: Path) -> dict[str, Path]:
    """One path of each kind that is no regular file, or that no file can have."""
    paths = {name: folder / name for name in ("pipe", "socket", "folder", "loop", "device-link", "hanging-link")}
    os.mkfifo(paths["pipe"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(paths["socket"]))
    paths["folder"].mkdir()
    (paths["folder"] / "mine.txt").write_text("mine")
    paths["loop"].symlink_to(paths["loop"])
    paths["device"] = own_device()
    paths["device-link"].symlink_to(paths["device"])
    paths["hanging-link"].symlink_to(folder / "nothing" / "there")
    regular = folder / "regular"
    regular.write_text("mine")
    return {
        **paths,
        "empty text": Path(""),
        "endless device": Path("/dev/zero"),
        "under a file": regular / "x",
        "in no folder": folder / "none" / "x",
        "long name": folder / ("x" * 300),
        "long path": folder / "/".join(["x" * 200] * 30),
        "unicode in no folder": folder / "nïché\n☃" / "x",
    }


OUTPUTS = (
    "pipe",
    "socket",
    "folder",
    "loop",
    "device-link",
    "hanging-link",
    "empty text",
    "device",
    "under a file",
    "in no folder",
    "long name",
    "long path",
    "unicode in no folder",
)
INPUTS = (*OUTPUTS, "endless device")
NEW_FOLDERS = ("pipe", "socket", "folder", "loop", "device-link", "device", "under a file", "long name", "long path")


def write_archive(path: Path, **arrays) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def alias_bomb(levels: int = 9) -> str:
    """YAML of a few hundred bytes that stands for 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"seed: *a{levels - 1}"])


def huge_header() -> bytes:
    """A .npy file that claims 2 ** 60 values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**30, 2**30)})
    return header.getvalue()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {  # a good file -> a bad one
    "empty": lambda good: b"",
    "cut off": lambda good: good[: len(good) // 2],
    "other bytes": lambda good: np.random.default_rng(0).bytes(max(64, len(good) // 2)),
    "zeros": lambda good: bytes(4096),
}
BAD_JSON: dict[str, Callable[[bytes], bytes]] = {
    **DAMAGE,
    "list": lambda good: b"[]",
    "null": lambda good: b"null",
    "number": lambda good: b"1",
    "text": lambda good: b'"text"',
    "nested list": lambda good: b"[" * DEEP,
    "nested names": lambda good: b'{"a":' * DEEP,
    "no values": lambda good: b"{}",
    "null values": lambda good: json.dumps(dict.fromkeys(json.loads(good))).encode(),
    "list values": lambda good: json.dumps({name: [] for name in json.loads(good)}).encode(),
    "NaN values": lambda good: json.dumps({name: float("nan") for name in json.loads(good)}).encode(),
}
BAD_YAML: dict[str, Callable[[bytes], bytes]] = {
    **DAMAGE,
    "list": lambda good: b"- 1\n- 2\n",
    "null": lambda good: b"null",
    "text": lambda good: b"text",
    "nested list": lambda good: b"[" * DEEP,
    "aliases": lambda good: good + b"\n" + alias_bomb().encode(),
    "cycle": lambda good: good + b"\nseed: &a [*a]\n",
    "object": lambda good: good + b"\nseed: !!python/object/apply:os.getcwd []\n",
    "key twice": lambda good: good + b"\nseed: 1\nseed: 2\n",
    "huge number": lambda good: good + b"\nseed: " + b"9" * 10_000 + b"\n",
    "NaN": lambda good: good + b"\nseed: .nan\n",
    "two documents": lambda good: good + b"\n---\na: 1\n",
    "control characters": lambda good: good + b"\nseed: \x00\x01\n",
}
