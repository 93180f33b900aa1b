"""The policy that the package ships, as what it is: its files, its actions, and what it does in the simulator.

Only these tests may change when another one is shipped.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from command_line import run
from vega3d import VegaForActionPrediction
from vega3d.hub.load import load_task
from vega3d.hub.memory import small_files
from vega3d.robotics.metaworld import ACTION_NAMES, INSTRUCTIONS, STATE_NAMES
from vega3d.shipped import ASSETS, POLICIES, model_folder

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
(NAME,) = POLICIES
EPISODE = Path(__file__).parent / "fixtures" / "robot_episode"
TASKS = ("button-press-topdown-v3", "coffee-button-v3", "door-unlock-v3", "window-open-v3")
WITHOUT = importlib.util.find_spec("metaworld") is None


def test_it_is_small_and_holds_no_code():
    files = [file for file in (ASSETS / NAME).rglob("*") if file.is_file()]

    assert sum(file.stat().st_size for file in files) < 1.3e6
    assert {file.suffix for file in files} <= {".json", ".jinja", ".md", ".safetensors"}
    assert "auto_map" not in (ASSETS / NAME / "config.json").read_text()


def test_it_is_loaded_by_its_name_and_knows_its_robot():
    model, _ = load_task(VegaForActionPrediction, NAME, device="cpu")

    assert model_folder(NAME) == small_files(NAME) == ASSETS / NAME
    assert list(model.config.action_cameras) == ["front"] and model.config.fusion == "none"
    assert (model.config.state_size, model.config.action_size) == (len(STATE_NAMES), len(ACTION_NAMES))


def test_it_predicts_what_an_expert_did_from_a_state_that_it_has_not_seen(tmp_path):
    """Without the simulator; an action is a number from -1 to 1."""
    arguments = ["--replay", EPISODE, "--output", tmp_path / "replay.mp4", "--device", "cpu", "--json"]

    done = run("act", NAME, *arguments)

    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["instruction"] == INSTRUCTIONS["button-press-topdown-v3"]
    assert max(found["mean_difference"]) < 0.1


@pytest.mark.skipif(WITHOUT, reason="metaworld is not installed: `make test-robot` installs it")
@pytest.mark.parametrize("task", TASKS)
def test_it_does_its_tasks_in_the_simulator(task, tmp_path):
    done = run("act", NAME, task, "--output", tmp_path / "x.mp4", "--most-steps", "200", "--device", "cpu", "--json")

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["successes"] == 1
