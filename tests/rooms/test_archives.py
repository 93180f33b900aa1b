"""Files of rooms and packs of furniture that are damaged, or claim more than they hold."""

import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vega3d.rooms import load_furniture
from vega3d.rooms.archives import read_archive
from vega3d.rooms.dataset.files import is_whole_archive, is_whole_video
from vega3d.rooms.scene.furniture import PACK
from vega3d.video_files import write_video

LIMIT = 1 << 20


def head(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_member(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (head((1 << 60,)) + b"x", "claims 1,152,921,504,606,846,976 bytes"),
        (head((1 << 40, 1 << 40, 1 << 40)), "claims"),
        (head((1 << 35,)) + b"x", "claims"),
        (head((-1,)), "cannot be"),
        (head((1,), "|O") + bytes(8), "numbers or text"),
        (head((4 * LIMIT,)) + bytes(4 * LIMIT), "at most 1,048,576 are read"),
        (b"", "cannot be read"),
        (b"\x93NUMPY", "cannot be read"),
    ],
)
def test_what_an_archive_claims_is_not_believed(tmp_path, content, told):
    path = write_member(tmp_path / "a.npz", content)

    with pytest.raises(ValueError, match=told):
        read_archive(path, largest=LIMIT, remedy="Make it again.")
    with pytest.raises(ValueError, match="no furniture pack"):
        load_furniture(path)


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_an_archive_cut_short_is_refused(tmp_path, keep):
    np.savez(tmp_path / "a.npz", meta=np.arange(100))
    whole = (tmp_path / "a.npz").read_bytes()
    assert read_archive(tmp_path / "a.npz", largest=LIMIT, remedy="").keys() == {"meta"}

    (tmp_path / "a.npz").write_bytes(whole[:keep])

    with pytest.raises(ValueError, match="cannot be read"):
        read_archive(tmp_path / "a.npz", largest=LIMIT, remedy="")


def test_an_archive_in_xz_is_read_and_not_believed_either(tmp_path):
    np.savez(tmp_path / "a.npz", meta=np.arange(100))
    whole = lzma.compress((tmp_path / "a.npz").read_bytes())
    path = tmp_path / "a.npz.xz"
    path.write_bytes(whole)
    assert read_archive(path, largest=LIMIT, remedy="")["meta"].tolist() == list(range(100))

    for content, told in (
        (whole[:-20], "cut short"),
        (b"PK", "cannot be unpacked"),
        (lzma.compress(bytes(2 * LIMIT)), "more than 1,048,576 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=told):
            read_archive(path, largest=LIMIT, remedy="")


CHAIR = {"class": "chair", "source": "a/b.obj", "parts": [{"textured": False, "color": [1, 2, 3]}]}


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        (None, "must be a list of objects"),
        ({}, "must be a list of objects"),
        ([], "must be a list of objects"),
        ([1], "Object 0 of .* is 1"),
        ([None], "Object 0 of .* is None"),
        ([{**CHAIR, "class": ["chair"]}], "Object 0"),
        ([{**CHAIR, "source": 5}], "needs a source"),
        ([{**CHAIR, "parts": None}], "list of parts"),
        ([{**CHAIR, "parts": []}], "list of parts"),
        ([{**CHAIR, "parts": [None]}], "Part 0 of object 0"),
        ([{**CHAIR, "parts": [{"textured": False, "color": "red"}]}], "Part 0 of object 0"),
        ([{**CHAIR, "parts": [{"textured": False, "color": [1, 2, 300]}]}], "Part 0 of object 0"),
        ([CHAIR], "lacks"),
    ],
)
def test_a_pack_with_another_table_is_refused(tmp_path, meta, told):
    np.savez(tmp_path / "pack.npz", meta=np.frombuffer(json.dumps(meta).encode(), np.uint8))

    with pytest.raises(ValueError, match=told):
        load_furniture(tmp_path / "pack.npz")


@pytest.mark.parametrize("vertices", [np.full((3, 3), np.nan), np.array([["a"] * 3] * 3), np.zeros((3, 2))])
def test_a_pack_with_impossible_meshes_is_refused(tmp_path, vertices):
    meta = np.frombuffer(json.dumps([CHAIR]).encode(), np.uint8)
    np.savez(tmp_path / "pack.npz", **{"meta": meta, "0_0_v": vertices, "0_0_f": np.zeros((1, 3), np.uint16)})

    with pytest.raises(ValueError, match="Part 0 of object 0"):
        load_furniture(tmp_path / "pack.npz")
    assert len(load_furniture(PACK)) == 93


def test_whole_files_are_told_from_those_cut_short(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((3, 32, 32, 3), np.uint8), 4)
    np.savez(tmp_path / "a.npz", depth=np.zeros(9))
    checks = {
        "a.mp4": is_whole_video,
        "a.npz": lambda path: is_whole_archive(path, ["depth"]),
    }

    for name, is_whole in checks.items():
        path = tmp_path / name
        whole = path.read_bytes()
        assert is_whole(path)
        for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"cut off", bytes(len(whole))):
            path.write_bytes(damaged)
            assert not is_whole(path), (name, len(damaged))
        path.unlink()
        assert not is_whole(path)
