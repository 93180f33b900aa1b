"""`vega3d analyze`: tables, files, and one line for bad input."""

import json
import os
import stat
from pathlib import Path

import pytest
from posed_clips import room_clip, write_scannet
from typer.testing import CliRunner

from tiny_checkpoints import FROZEN_CONFIG, copy_frozen
from vega3d.analysis.sweep import read_part, write_part
from vega3d.files import only_run
from vega3d_cli.common import app


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        write_scannet(folder / f"scene{number:04d}_00", room_clip(frames=4, turn=40.0 + 5 * number))
    return folder


def run(*arguments, code: int = 0) -> str:
    import vega3d_cli  # noqa: F401 (adds the commands)

    result = CliRunner().invoke(app, ["analyze", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_correspondence_prints_chance_and_controls(scans, tmp_path):
    model = copy_frozen(tmp_path / "model", notice="Its answers mean nothing.")
    arguments = ("--data", scans, "--clips", 2, "--controls", "random,noise,vae")
    output = tmp_path / "x.json"

    table = run("correspondence", model, *arguments, "--output", output)

    assert f"{model}: 2 clips of 2 scenes" in table

    values = FROZEN_CONFIG["generator_config"]
    mode = values["clip_mode"]

    for words in (
        "chance",
        f"wan, {mode}, block {values['block']}, step {values['timestep']}",
        f"random, {mode}",
        f"noise, {mode}",
        f"vae, {mode}",
        "note: Its answers mean nothing.",
    ):
        assert words in table

    result = json.loads(output.read_text())
    assert result["kind"] == "correspondence" and len(result["cells"]) == 4 and len(result["clips"]) == 8
    assert result["plan"]["seed"] == 0 and result["versions"]["vega3d"] and len(result["generator_files"]) > 30


def test_probe_prints_baselines(scans, tmp_path):
    from vega3d.analysis.layouts import find_clips

    assert len(find_clips(scans)) == 4
    train = tmp_path / "train"
    train.mkdir()
    for number in (0, 1):
        (scans / f"scene{number:04d}_00").rename(train / f"scene{number:04d}_00")
    try:
        result = json.loads(run("probe", "--data", scans, "--train-data", train, "--json"))
    finally:
        for folder in train.iterdir():
            folder.rename(scans / folder.name)
    assert {cell["family"] for cell in result["cells"]} == {"wan", "mean", "position"}
    assert result["train_clips"] == ["scene0000_00", "scene0001_00"]


def test_sweep_writes_tables_and_pictures(scans, tmp_path):
    arguments = ("sweep", "--data", scans, "--clips", 2, "--block", "0,-1", "--output", tmp_path / "out")
    table = run(*arguments)
    assert "correspondence, corrected for chance" in table
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"clips.parquet", "summary.json", "parts", "heatmap_corrected.png", "curves_corrected.png"} <= names
    assert run(*arguments) == table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("correspondence", "--data", "nowhere"), "There is no folder nowhere"),
        (("correspondence", "--block", "two"), "--block is 'two'"),
        (("correspondence", "--size", "big"), "--size is 'big', but must be like 832x480"),
        (("correspondence", "--views", "1"), "at least 2"),
        (("correspondence", "--intrinsics", "1,2"), "fx,fy,cx,cy"),
        (("correspondence", "--controls", "moon"), "no control 'moon'"),
        (("correspondence", "--layout", "tum"), "--layout tum needs --data"),
        (("correspondence", "--output", "."), "--output is ., but must be a file"),
    ],
)
def test_bad_input_ends_with_one_line(arguments, message):
    output = run(*arguments, code=2)
    assert message in output and "Traceback" not in output


def test_help_has_examples():
    for command in ("correspondence", "probe", "sweep"):
        assert f"vega3d analyze {command}" in run(command, "--help")


def test_outputs_that_a_file_would_replace_are_refused_before_any_work(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "clips.parquet").write_bytes(b"no table")
    clips = tmp_path / "sweep" / "clips.parquet"

    for command in ("correspondence", "probe"):
        assert "is a named pipe" in run(command, "none-such", "--output", tmp_path / "pipe", code=2)
    assert "is an input of this command" in run("choose", clips.parent, "--output", clips, code=2)
    assert "is not empty and holds no sweep" in run("sweep", "none-such", "--output", tmp_path, code=2)
    with only_run(tmp_path / "x.json"):
        assert "Another run is writing" in run("probe", "none-such", "--output", tmp_path / "x.json", code=2)

    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert clips.read_bytes() == b"no table"
    assert "clips.parquet cannot be read" in run("choose", clips.parent, code=2)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"key": 1}', "[" * 100_000], ids=lambda text: text[:12])
def test_a_damaged_part_is_measured_again(tmp_path, text):
    rows = write_part(tmp_path, "key", [{"cosine": 0.5}])
    assert read_part(tmp_path, "key") == rows

    (tmp_path / "key.json").write_text(text)

    assert read_part(tmp_path, "key") is None
