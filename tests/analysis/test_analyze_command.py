"""`vega3d analyze`: tables, files, and one line for bad input."""

import json
import os
import stat
from pathlib import Path

import pytest
from posed_clips import room_clip, write_scannet
from typer.testing import CliRunner

from tiny_checkpoints import FROZEN, FROZEN_CONFIG, copy_frozen
from tiny_models import save_generator
from vega3d.analysis import attentive
from vega3d.analysis.settings import PRESETS
from vega3d.analysis.sweep import read_part, write_part
from vega3d.files import only_run
from vega3d.modeling.noise_vega3d import flow_matching_step
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


@pytest.fixture
def probe(scans, tmp_path):
    """Runs `probe` with two of the scans to train on, and gives the result."""
    train = tmp_path / "train"
    train.mkdir()
    for number in (0, 1):
        (train / f"scene{number:04d}_00").symlink_to(scans / f"scene{number:04d}_00")
    test = tmp_path / "test"
    test.mkdir()
    for number in (2, 3):
        (test / f"scene{number:04d}_00").symlink_to(scans / f"scene{number:04d}_00")
    common = ("--data", test, "--train-data", train)
    return lambda model, *arguments: run("probe", model, *common, *arguments)


def test_probe_prints_baselines_and_all_readings_that_the_clips_have(probe, tmp_path):
    table = probe(FROZEN, "--output", tmp_path / "x.json")

    result = json.loads((tmp_path / "x.json").read_text())
    assert {cell["family"] for cell in result["cells"]} == {"wan", "mean", "position"}
    assert result["train_clips"] == ["scene0000_00", "scene0001_00"]
    assert result["probes"]["probe"] == "linear" and "permanence" in result["probes"]["readings"]
    figures = result["cells"][0]["figures"]
    assert {"depth_rmse", "points_error", "turn_error", "turn_first_error", "pose_auc30"} <= figures.keys()
    assert "without instances and permanence: clips have no ids of objects" in table
    for words in ("AUC@30", "motion of the camera", "points in the first camera's axes"):
        assert words in table
    assert "ROC AUC" not in table  # no table of what was not measured


def test_probe_reads_only_what_is_asked_for(probe):
    result = json.loads(probe(FROZEN, "--readings", "turn", "--json"))
    figures = result["cells"][0]["figures"]
    assert "turn_error" in figures and "depth_rmse" not in figures and "pose_auc30" not in figures


def test_attentive_probes_have_a_column_for_each_seed(probe, monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 2)
    arguments = ("--probe", "attentive", "--probe-seeds", "3,7", "--readings", "turn", "--json")
    figures = json.loads(probe(FROZEN, *arguments))["cells"][0]["figures"]
    assert {"turn_error", "turn_error_seed_3", "turn_error_seed_7"} <= figures.keys()


def test_presets_set_what_is_not_given(probe):
    arguments = ("--preset", "vidfm3d", "--readings", "turn", "--json")

    result = json.loads(probe(FROZEN, *arguments))
    plan = result["plan"]
    assert (plan["modes"], plan["timesteps"], plan["blocks"], plan["shift"]) == (["clip"], [500], [3], 3.0)
    assert result["options"]["views"] == 81
    assert result["cells"][0]["figures"]["turn_error"]["score"] > 0  # of two latents

    arguments += ("--mode", "views", "--block", "1", "--timestep", "100", "--views", "3")
    result = json.loads(probe(FROZEN, *arguments))
    plan = result["plan"]
    assert (plan["modes"], plan["timesteps"], plan["blocks"], plan["shift"]) == (["views"], [100], [1], 3.0)
    assert result["options"]["views"] == 3


def test_presets_are_those_of_the_studies():
    assert {name: preset.block(30) for name, preset in PRESETS.items()} == {
        "paper": 20,
        "vidfm3d": 20,
        "probing-vlm-vgm": 15,
    }
    assert PRESETS["probing-vlm-vgm"].block(40) == 20 and PRESETS["paper"].block(1) == 0
    assert flow_matching_step(500, PRESETS["vidfm3d"].shift).sigma == pytest.approx(0.5, abs=1e-3)
    assert flow_matching_step(300, PRESETS["paper"].shift).step == 299


def test_a_published_generator_is_read_alone(probe, tmp_path):
    folder = save_generator(tmp_path / "generator")
    result = json.loads(probe(folder, "--preset", "paper", "--readings", "turn", "--json"))
    assert result["notice"] is None and result["cells"][0]["family"] == "wan"
    bare = save_generator(tmp_path / "bare", with_text_encoder=False)
    refused = run("probe", bare, "--readings", "turn", code=2)
    assert "neither text_encoder/ nor prompt.safetensors" in refused


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
        (("correspondence", "--data", ".", "--first-room", 4), "--first-room cannot be used with --data"),
        (("correspondence", "--data", ".", "--trajectories", 4), "--trajectories cannot be used with --data"),
        (("probe", "--readings", "depth,moon"), "There is no reading 'moon'"),
        (("probe", "--probe", "attentive", "--readings", "depth"), "The attentive probe cannot read depth"),
        (("probe", "--probe-seeds", "0,1"), "have no seeds"),
        (("probe", "--probe", "attentive", "--probe-seeds", "a"), "--probe-seeds is 'a'"),
        (
            ("probe", "--train-data", ".", "--train-first-room", 4),
            "--train-first-room cannot be used with --train-data",
        ),
        (("probe", "--split", "train", "--first-room", 15), "Rooms 15 to 19 of split train would be both"),
        (("sweep", "--output", "new", "--readings", "turn"), "--readings cannot be used with no --probes"),
        (("probe", "--preset", "mine"), "'mine'"),
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
