"""`train-generator` and `sample`, and `vega3d analyze` on the folder of a generator."""

import json
import shutil

import pytest
import yaml
from PIL import Image
from toy_generators import DIT, ROOMS, VAE
from typer.testing import CliRunner

from research.tiny.simulator.__main__ import app
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import synthesize
from vega3d_cli import app as vega3d


@pytest.fixture
def recipe(simulator, tmp_path):
    """The recipe of a copy of the toy simulator, whose runs are finished: a command writes its result anew."""
    output = shutil.copytree(simulator[0], tmp_path / "simulator")
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump({"output": str(output), "device": "cpu", "rooms": ROOMS, "vae": VAE, "dit": DIT}))
    return file


def run(command, *arguments):
    application = vega3d if command == "analyze" else app
    return CliRunner().invoke(application, [command, *(str(argument) for argument in arguments)])


def test_train_generator_tells_what_it_did(recipe, simulator):
    done = run("train-generator", recipe, "--stage", "vae")
    assert done.exit_code == 0, done.output
    assert "8 of 8" in done.output and "gate G1, PSNR >= 28 dB           FAILED" in done.output
    twin = run("train-generator", recipe, "--stage", "dit", "--image-twin", "--max-minutes", "9", "--json")
    told = json.loads(twin.stdout)
    assert told["settings"]["dit.mixture"] == ["frame"] and told["finished"] and "log" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--stage", "dit", "--set", "dit.shift=9"), "dit.shift was 2.0 and is 9.0"),
        (("--stage", "vae", "--image-twin"), "--image-twin is a transformer"),
        (("--stage", "vae", "--max-minutes", "0"), "--max-minutes is 0.0"),
        (("--stage", "vae", "--set", "vae.stepz=9"), "Did you mean 'vae.steps'"),
    ],
)
def test_bad_commands_end_with_one_line(recipe, arguments, told):
    result = run("train-generator", recipe, *arguments)
    assert result.exit_code == 2
    assert told in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_sample_writes_videos_a_grid_and_facts(simulator, tmp_path):
    folder = simulator[0] / "generator"
    result = run(
        "sample", folder, "--output", tmp_path, "--count", 2, "--seed", 3, "--steps", 2, "--device", "cpu", "--json"
    )

    assert result.exit_code == 0, result.output

    facts = json.loads((tmp_path / "samples.json").read_text())
    assert facts == json.loads(result.stdout)
    assert facts["seeds"] == [3, 4] and (facts["num_frames"], facts["size"]) == (5, 32)
    assert facts["files"] == ["samples.png", "video-3.mp4", "video-4.mp4"]
    assert all((tmp_path / file).stat().st_size for file in facts["files"])

    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.size == (5 * 34 - 2, 2 * 34 - 2)


def test_sample_of_the_twin_is_a_picture(simulator, tmp_path):
    result = run(
        "sample", simulator[0] / "image-twin", "--output", tmp_path, "--steps", 2, "--no-videos", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["samples.json", "samples.png"]
    refused = run("sample", simulator[0] / "image-twin", "--output", tmp_path, "--size", 40)
    assert refused.exit_code == 2 and "40 x 40" in refused.stderr


def test_analyze_reads_a_generator_alone(simulator, tmp_path):
    synthesize(tmp_path / "rooms", DatasetSettings("test", size=128, num_frames=8), 1, 1)
    arguments = (
        "--data",
        tmp_path / "rooms",
        "--controls",
        "random",
        "--block",
        1,
        "--voxel",
        0.4,
        "--device",
        "cpu",
        "--json",
    )

    result = run("analyze", "correspondence", simulator[0] / "generator", *arguments)

    assert result.exit_code == 0, result.output

    told = json.loads(result.stdout)
    assert told["notice"] is None and {row["family"] for row in told["clips"]} == {"wan", "random"}
