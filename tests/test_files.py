"""Whole files and folders: what is refused before any work, what is left behind, and who may write at a time."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bad_values import OUTPUTS, special_files
from vega3d.files import (
    LOCK,
    check_input,
    check_new_folder,
    check_output,
    is_free,
    only_run,
    partial_path,
    read_json,
    whole_file,
    whole_files,
    whole_folder,
    write_json,
    write_whole,
)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


SPECIAL = (*OUTPUTS, "zero byte")


def special(folder: Path, kind: str) -> Path:
    return folder / "zero\0byte" if kind == "zero byte" else special_files(folder)[kind]


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_output_is_a_regular_file_in_a_folder_that_is_there(kind, tmp_path):
    path = special(tmp_path, kind)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ValueError):
        check_output(path)
    with pytest.raises(ValueError), whole_file(path):
        raise AssertionError("the work began")

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_input_is_a_regular_file(kind, tmp_path):
    with pytest.raises(ValueError):
        check_input(special(tmp_path, kind))


def test_an_output_is_none_of_the_inputs(tmp_path):
    source, link, hard = tmp_path / "a.json", tmp_path / "link.json", tmp_path / "hard.json"
    source.write_text("{}")
    link.symlink_to(source)
    hard.hardlink_to(source)

    for output in (source, link, hard, tmp_path / "." / "a.json"):
        with pytest.raises(ValueError, match="is an input"):
            check_output(output, source)


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "deep").mkdir()
    link, target = tmp_path / "link.json", tmp_path / "deep" / "target.json"
    link.symlink_to(target)

    write_json(link, {"a": 1})

    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}


def test_a_file_of_the_user_with_a_partial_name_stays(tmp_path):
    (tmp_path / "g.png.partial").write_text("mine")
    (tmp_path / ".g.png-mine.partial").write_text("mine")

    with whole_file(tmp_path / "g.png") as file:
        file.write_text("ours")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "g.png": "ours",
        "g.png.partial": "mine",
        ".g.png-mine.partial": "mine",
    }


def test_what_fails_leaves_nothing_and_the_file_as_it_was(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    assert json.loads(path.read_text()) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["result.json"]


def test_the_permissions_are_those_of_any_new_file_or_of_the_one_before(tmp_path):
    plain, ours, private, strict = (tmp_path / name for name in ("plain", "ours", "private", "strict"))
    plain.write_text("")
    private.touch(mode=0o600)

    write_json(ours, {})
    write_json(private, {})
    write_whole(strict, partial(save_file, {"a": torch.ones(1)}))  # which makes files that others cannot read

    assert ours.stat().st_mode == strict.stat().st_mode == plain.stat().st_mode
    assert private.stat().st_mode & 0o777 == 0o600


KILLED = """
import os, signal, sys
from pathlib import Path
from vega3d.files import whole_file, whole_folder
with whole_file(Path(sys.argv[1]) / "result.json") as file, whole_folder(Path(sys.argv[1]) / "model") as folder:
    file.write_text("half")
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert len(hidden(tmp_path)) == 2

    write_json(tmp_path / "result.json", {})
    with whole_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "result.json"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


KILLED_WITHIN = """
import os, shutil, signal, sys
from pathlib import Path
from vega3d.files import FileLock, write_json
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
owner, name = {"acquire": (FileLock, "acquire"), "rmtree": (shutil, "rmtree"), "rmdir": (os, "rmdir")}[sys.argv[2]]
setattr(owner, name, die)
write_json(Path(sys.argv[1]) / "result.json", {})
"""


@pytest.mark.parametrize(("step", "is_whole"), [("acquire", False), ("rmtree", True), ("rmdir", True)])
def test_a_run_that_goes_on_removes_what_is_left_beside_files_whole_or_not(tmp_path, step, is_whole):
    (tmp_path / "scenes").mkdir()
    subprocess.run([sys.executable, "-c", KILLED_WITHIN, str(tmp_path / "scenes"), step], check=False)
    assert (tmp_path / "scenes" / "result.json").is_file() == is_whole and len(hidden(tmp_path / "scenes")) == 1
    users = tmp_path / "scenes" / ".film-12345678.partial"  # a file, where ours are folders
    users.write_text("half")

    with whole_file(tmp_path / "scenes" / "other.json") as written:
        with only_run(tmp_path):
            assert written.exists() and users.exists() and len(hidden(tmp_path / "scenes")) == 2
        written.write_text("{}")

    assert hidden(tmp_path / "scenes") == [users.name]


def test_what_another_writer_is_writing_is_left_alone(tmp_path):
    path = tmp_path / "result.json"
    with whole_file(path) as first:
        first.write_text("1")
        write_json(path, 2)
        assert first.read_text() == "1"

    assert path.read_text() == "1"
    assert hidden(tmp_path) == []


def test_a_writer_that_replaces_the_file_it_was_given_is_left_alone(tmp_path):
    path = tmp_path / "weights.safetensors"
    with whole_file(path) as first:
        save_file({"a": torch.ones(1)}, first)
        write_json(path, 2)
        assert load_file(first)["a"] == 1

    assert load_file(path)["a"] == 1
    assert hidden(tmp_path) == []


def test_writers_of_the_same_files_do_not_disturb_each_other(tmp_path):
    code = """
import sys
from functools import partial
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from vega3d.files import write_whole
for number in range(300):
    write_whole(Path(sys.argv[1]) / f"{number % 3}", partial(save_file, {"a": numpy.ones(4)}))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(4)]

    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [(b"", 0)] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_folder_that_is_in_use_is_refused_and_an_empty_one_is_taken(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("")
    (tmp_path / "empty").mkdir()

    for taken in ("used", "used/mine"):
        with pytest.raises(ValueError, match="already there"):
            check_new_folder(tmp_path / taken)
    with whole_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")

    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a"]


@pytest.mark.parametrize("place", ["folder", "file.json"])
def test_the_second_run_of_an_output_is_told_so(place, tmp_path):
    (tmp_path / "folder").mkdir()
    with (
        only_run(tmp_path / place),
        pytest.raises(ValueError, match="Another run is writing"),
        only_run(tmp_path / place),
    ):
        raise AssertionError("the second run began")

    with only_run(tmp_path / place):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(LOCK)]


@pytest.mark.parametrize("text", ["", "[]", "null", "1", "{", "[" * 100_000, '{"a": ' * 100_000, "\xff"])
def test_json_that_holds_no_names_is_refused(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")

    with pytest.raises(ValueError, match=r"a\.json .*Make it anew\."):
        read_json(path, remedy="Make it anew.")


def test_temporary_names_of_long_names_can_be_made(tmp_path):
    path = tmp_path / ("ü" * 127)  # 254 bytes

    write_json(path, {})

    assert path.is_file()
    assert len(os.fsencode(partial_path(path).name)) <= 255


def test_a_file_of_another_making_is_not_replaced(tmp_path):
    ours, empty, theirs = tmp_path / "ours.json", tmp_path / "empty.json", tmp_path / "notes.json"
    ours.write_text('{"format": "vega3d-comparison-1"}')
    empty.touch()
    theirs.write_text('{"mine": 1}')

    for path in (ours, empty, tmp_path / "new.json"):
        assert check_output(path, mark=b"vega3d-comparison-1") == path
    with pytest.raises(ValueError, match="not made by this command"):
        check_output(theirs, mark=b"vega3d-comparison-1")


def test_files_move_into_a_folder_that_is_there_and_none_if_one_fails(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    (folder / "notes.txt").write_text("mine")

    with pytest.raises(RuntimeError), whole_files(folder) as new:
        (new / "config.json").write_text("half")
        raise RuntimeError
    assert (folder / "config.json").read_text() == "old"
    with whole_files(folder) as new:
        (new / "config.json").write_text("new")

    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": "new", "notes.txt": "mine"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_is_free_until_something_is_in_it(tmp_path):
    assert is_free(tmp_path / "new") and is_free(tmp_path)

    with only_run(tmp_path):
        assert is_free(tmp_path)
    (tmp_path / "file").touch()

    assert not is_free(tmp_path) and not is_free(tmp_path / "file")
