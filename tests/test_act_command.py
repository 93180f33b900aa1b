"""`vega3d act`: a recorded episode and the closed loop as a video, what it shows, and what is refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from command_line import run
from robotics.demonstration_data import CAMERAS, FPS, write_toy
from robotics.line_world import LineWorld
from tiny_checkpoints import FROZEN, save_policy
from vega3d import VegaForActionPrediction
from vega3d.hub.load import load_task
from vega3d.inference.acting import Attempt, watch_episode
from vega3d.inference.action_video import EDGE, END, GREEN, LINE, PANEL, RED, attempt_frames, save_action_video
from vega3d.inference.gate_figure import gate_overlays
from vega3d.processing.video_vega3d import read_video
from vega3d.robotics.closed_loop import Episode
from vega3d.robotics.metaworld import ACTION_NAMES, STATE_NAMES

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
CHUNK = 5
WITHOUT = importlib.util.find_spec("metaworld") is None
LEFT = (slice(EDGE + LINE, EDGE + LINE + 149), slice(EDGE, EDGE + PANEL))  # the first camera: 32 x 48 px, enlarged
RIGHT = (LEFT[0], slice(2 * EDGE + PANEL, 2 * EDGE + 2 * PANEL))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory) -> Path:
    return write_toy(tmp_path_factory.mktemp("data") / "toy", 2)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "model", CAMERAS, 3, 2, action_chunk=CHUNK)


@pytest.fixture(scope="module")
def replayed(policy, demonstrations, tmp_path_factory) -> tuple[dict, Path]:
    output = tmp_path_factory.mktemp("video") / "replay.mp4"
    arguments = ["--replay", demonstrations, "--episode", "1", "--output", output, "--device", "cpu", "--json"]
    done = run("act", policy, *arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), output


def test_a_replay_compares_predicted_and_recorded_actions(replayed, policy, demonstrations):
    from vega3d.robotics.lerobot_dataset import LeRobotFolder

    found, _ = replayed
    model, processor = load_task(VegaForActionPrediction, policy, device="cpu")
    data = LeRobotFolder(demonstrations)
    states, recorded = data.numbers(1)
    chunks = []
    for step in range(0, len(states), CHUNK):
        images = {camera: data.frames(1, camera, [step])[0] for camera in data.cameras}
        chunks.append(model.predict_actions(processor, images, data.task(1), states[step]))

    predicted = np.concatenate(chunks)[: len(states)]
    np.testing.assert_allclose(found["mean_difference"], np.abs(predicted - recorded).mean(0), rtol=1e-5)
    assert found["episodes"] == [] and found["successes"] is None and found["instruction"] == "close the drawer"


def test_the_video_shows_each_step_with_the_gates_of_its_query(replayed, policy, demonstrations):
    from vega3d.robotics.lerobot_dataset import LeRobotFolder

    found, output = replayed
    video = read_video(output, num_frames=12 + END)
    data, ends = LeRobotFolder(demonstrations), (found["gates"]["low"], found["gates"]["high"])
    model, processor = load_task(VegaForActionPrediction, policy, device="cpu")
    states, _ = data.numbers(1)

    assert len(video.frames) == 12 + END and abs(video.seconds[1] - 1 / FPS) < 1e-6
    for step in (2, 7, 11):
        first = step - step % CHUNK
        images = {camera: data.frames(1, camera, [first])[0] for camera in data.cameras}
        gates = model.query(processor, images, data.task(1), states[first], output_gates=True).gates["image"][0]
        [overlay] = gate_overlays(images["front"][None], gates.float().numpy(), ends)
        live = data.frames(1, "front", [step])[0]
        assert np.abs(video.frames[step][LEFT].mean((0, 1)) - live.mean((0, 1))).max() < 3
        assert np.abs(video.frames[step][RIGHT].mean((0, 1)) - overlay.mean((0, 1))).max() < 4


def test_a_video_of_another_making_stays_and_one_of_ours_is_replaced(replayed, policy, demonstrations, tmp_path):
    _, ours = replayed
    theirs = tmp_path / "theirs.mp4"
    theirs.write_bytes(b"a film" * 3000)
    arguments = ["act", policy, "--replay", demonstrations, "--device", "cpu", "--output"]

    refused, again = run(*arguments, theirs), run(*arguments, ours)

    assert refused.exit_code == 2 and "was not made by this command" in refused.stderr
    assert theirs.read_bytes() == b"a film" * 3000
    assert again.exit_code == 0 and "mean difference" in again.stdout


def test_an_attempt_in_the_closed_loop_is_watched(tmp_path):
    folder = save_policy(tmp_path / "line", ("front",), 1, 2, action_chunk=CHUNK)
    model, processor = load_task(VegaForActionPrediction, folder, device="cpu")
    world, done = LineWorld("near"), []

    attempt = watch_episode(world, model, processor, 1000, 12, 3, done.append)

    assert attempt.episode is not None and attempt.episode.steps == sum(done) == len(attempt.actions)
    assert attempt.query_of == [step // 3 for step in range(attempt.episode.steps)]
    for number, query in enumerate(attempt.queries):
        np.testing.assert_array_equal(query.images["front"], attempt.frames["front"][3 * number])
        assert query.gates is not None and query.gates["front"].ndim == 2
    taken = attempt.queries[0].actions[:3].clip(-1, 1)
    np.testing.assert_array_equal(attempt.actions[:3], taken)


def attempt_of(success: bool) -> Attempt:
    frames = {"front": np.full((3, 32, 32, 3), 90, np.uint8)}
    return Attempt(
        "reach", "none", frames, np.zeros((3, 2), np.float32), [], [0] * 3, Episode("near", 1, success, 3, 1, 0.0)
    )


@pytest.mark.parametrize(("success", "colour"), [(True, GREEN), (False, RED)])
def test_the_end_says_how_it_came_out_and_without_a_gate_there_is_no_map(success, colour, tmp_path):
    *steps, last = attempt_frames(attempt_of(success), None)

    def has(picture: np.ndarray, wanted: tuple[int, int, int]) -> bool:
        return bool((np.abs(picture.astype(int) - wanted).max(-1) < 40).any())

    assert len(steps) == 2 + END and has(last, colour) and not has(steps[0], colour)
    assert (last[EDGE + LINE : EDGE + LINE + PANEL, 2 * EDGE + PANEL :] == 255).all()
    assert save_action_video(tmp_path / "x.mp4", [attempt_of(success)], 10) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push-v2"], "'push-v2' is no task of Meta-World"),
        ([], "Give either a task"),
        (["push-v3", "--replay", "toy"], "Give either a task"),
        (["push-v3", "--episode", "1"], "--episode is 1, which has no effect without --replay"),
        (["push-v3", "--size", "99"], "--size is 99, but must be an even number"),
        (["push-v3", "--output", "x.avi"], "x.avi must end in .mp4"),
        (["push-v3", "--output", "none/x.mp4"], "There is no folder"),
        (["--replay", "nowhere"], "nowhere holds no demonstrations"),
        (["--replay", "toy", "--episode", "2"], "There is no episode 2 in toy, which has 0 to 1"),
        (["--replay", "toy", "--execute", "9"], "--execute is 9, which has no effect with --replay"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, said, demonstrations, policy, tmp_path, monkeypatch):
    monkeypatch.chdir(demonstrations.parent)
    output = [] if "--output" in arguments else ["--output", tmp_path / "x.mp4"]

    done = run("act", policy, *arguments, *output)

    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert said in done.stderr and not (tmp_path / "x.mp4").exists()


def test_models_that_cannot_act_are_refused(demonstrations, tmp_path):
    other = save_policy(tmp_path / "other", ("top",), 3, 2)
    arguments = ["--replay", demonstrations, "--output", tmp_path / "x.mp4"]

    assert "is no policy: its config has no action_token_id" in run("act", FROZEN, *arguments).stderr
    assert "sees ['top'], with states of 3 and actions of 2 numbers" in run("act", other, *arguments).stderr
    assert "no model" in run("act", "vega4d", *arguments).stderr


@pytest.mark.skipif(not WITHOUT, reason="metaworld is installed")
def test_without_the_simulator_the_extra_is_named(policy, tmp_path):
    done = run("act", policy, "push-v3", "--output", tmp_path / "x.mp4")

    assert done.exit_code == 2 and "pip install 'vega3d[robot]'" in done.stderr


@pytest.mark.skipif(WITHOUT, reason="metaworld is not installed: `make test-robot` installs it")
def test_two_attempts_in_the_simulator(tmp_path):
    sizes = (len(STATE_NAMES), len(ACTION_NAMES))
    model = save_policy(tmp_path / "arm", ("front",), *sizes, action_chunk=CHUNK)
    arguments = ["--output", tmp_path / "x.mp4", "--most-steps", "6", "--episodes", "2", "--size", "32"]

    done = run("act", model, "reach-v3", *arguments, "--device", "cpu", "--json")

    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["seed"], one["steps"], one["queries"]) for one in found["episodes"]] == [(1000, 6, 2), (1001, 6, 2)]
    assert found["gates"]["low"] < found["gates"]["high"] and found["size"] == 32
    assert len(read_video(tmp_path / "x.mp4", num_frames=1000).frames) == 2 * (6 + END)
