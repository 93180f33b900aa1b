"""LIBERO's conventions, on observations as it records them, and its loop with a simulator of the same interface."""

import re
import zipfile

import numpy as np
import pytest
import torch

from vega3d.robotics.closed_loop import Nothing, run_episode
from vega3d.robotics.libero import (
    MOST_STEPS,
    LiberoEnvironment,
    libero_environment,
    observation_of,
    plain_instruction,
    read_states,
    rotation_vector,
    simulator_action,
    states_place,
    suite_and_number,
)

BOWL = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"
HALF_TURN = np.array([1.0, 0.0, 0.0, 0.0])  # x, y, z, w: the gripper looks down


def raw_observation(step: int = 0) -> dict[str, np.ndarray]:
    """As robosuite gives it: frames upside down and mirrored, quaternions with w last."""
    front, wrist = (np.zeros((6, 8, 3), np.uint8) for _ in range(2))
    front[-1, -1] = (255, step, 0)  # the upright frame's first pixel
    wrist[0, 0] = (0, step, 255)  # the upright frame's last pixel
    position = np.array([0.1, 0.2, 0.3 + step])
    fingers = np.array([0.04, -0.04])
    return {
        "agentview_image": front,
        "robot0_eye_in_hand_image": wrist,
        "robot0_eef_pos": position,
        "robot0_eef_quat": HALF_TURN,
        "robot0_gripper_qpos": fingers,
    }


class Recorded:
    """The interface of `OffScreenRenderEnv`: writes down what it is told; done when the gripper has closed twice."""

    def __init__(self):
        self.told, self.actions = [], []

    def seed(self, seed):
        self.told.append(("seed", seed))

    def reset(self):
        self.told.append("reset")
        self.actions = []
        return raw_observation()

    def set_init_state(self, state):
        self.told.append(("state", state.tolist()))
        return raw_observation()

    def step(self, action):
        assert isinstance(action, list) and len(action) == 7
        self.actions.append(action)
        return raw_observation(len(self.actions)), 0.0, False, {}

    def check_success(self):
        return sum(action[-1] == 1 for action in self.actions) == 2

    def close(self):
        self.told.append("closed")


class Closing:
    """A policy that closes the gripper at its third step, in the words of its data set."""

    def __init__(self, opened: float, closed: float):
        self.opened, self.closed, self.seen = opened, closed, []

    def predict_actions(self, images, instruction, state):
        self.seen.append((images, instruction, state))
        grip = self.closed if len(self.seen) > 2 else self.opened
        return np.array([[0.5, 0, 0, 0, 0, 0, grip]])


def test_frames_are_turned_and_in_order_and_the_state_has_eight_numbers():
    observation = observation_of(raw_observation())

    assert list(observation.images) == ["front", "wrist"]
    assert observation.images["front"][0, 0].tolist() == [255, 0, 0]
    assert observation.images["wrist"][-1, -1].tolist() == [0, 0, 255]
    assert all(image.flags.c_contiguous for image in observation.images.values())
    assert observation.state.dtype == np.float32
    assert observation.state == pytest.approx([0.1, 0.2, 0.3, np.pi, 0, 0, 0.04, -0.04])


def test_an_observation_without_the_wrist_is_refused():
    raw = raw_observation()
    del raw["robot0_eye_in_hand_image"]

    with pytest.raises(ValueError, match="lacks robot0_eye_in_hand_image"):
        observation_of(raw)


@pytest.mark.parametrize(
    ("quaternion", "vector"),
    [
        ([0, 0, 0, 1], [0, 0, 0]),
        ([0, 0, 0, 1 + 1e-9], [0, 0, 0]),
        ([0, 0, 0, -1], [0, 0, 0]),
        ([0, 0, np.sin(0.3), np.cos(0.3)], [0, 0, 0.6]),
        ([0, -np.sin(0.3), 0, np.cos(0.3)], [0, -0.6, 0]),
        ([0, 0, -np.sin(0.3), -np.cos(0.3)], [0, 0, -(2 * np.pi - 0.6)]),  # the same rotation with the other sign
        ([0.6, 0.8, 0, 0], [0.6 * np.pi, 0.8 * np.pi, 0]),
    ],
)
def test_rotations_are_axis_times_angle(quaternion, vector):
    given = np.array(quaternion, float)

    assert rotation_vector(given) == pytest.approx(vector)
    assert given.tolist() == quaternion


@pytest.mark.parametrize(("share", "signed"), [(1.0, -1), (0.51, -1), (0.5, 1), (0.0, 1), (-0.2, 1)])
def test_a_share_of_opening_becomes_liberos_sign(share, signed):
    action = np.array([0.1, -0.2, 0.3, 0, 0, 0, share])

    assert simulator_action(action, "share") == pytest.approx([0.1, -0.2, 0.3, 0, 0, 0, signed])
    assert simulator_action(action, "signed") == pytest.approx(action)
    assert action[-1] == share


@pytest.mark.parametrize(("gripper", "opened", "closed"), [("signed", -1.0, 1.0), ("share", 1.0, 0.0)])
def test_both_grippers_do_the_same(gripper, opened, closed):
    simulator, policy = Recorded(), Closing(opened, closed)
    environment = LiberoEnvironment(simulator, np.eye(3), "libero_goal/1", "open the drawer", 300, gripper)

    episode = run_episode(environment, policy, 2)

    assert episode.success and episode.steps == 4 and episode.clipped == 0
    assert simulator.told == [("seed", 0), "reset", ("state", [0, 0, 1])]
    assert simulator.actions[:10] == [[0, 0, 0, 0, 0, 0, -1]] * 10  # it settles, with the gripper open
    assert [action[-1] for action in simulator.actions[10:]] == [-1, -1, 1, 1]
    images, instruction, state = policy.seen[0]
    assert (instruction, images["front"][0, 0].tolist()) == ("open the drawer", [255, 10, 0])
    assert state[2] == pytest.approx(10.3)


def test_settling_counts_no_steps_and_an_episode_ends_at_the_suites_limit():
    simulator = Recorded()
    environment = LiberoEnvironment(simulator, np.eye(2), "libero_spatial/0", BOWL, MOST_STEPS["libero_spatial"])

    episode = run_episode(environment, Nothing(environment), 0)

    assert (episode.success, episode.steps, len(simulator.actions)) == (False, 220, 230)
    with pytest.raises(ValueError, match="has the initial states 0 to 1, but 2 is asked"):
        environment.reset(2)


def test_an_unknown_gripper_is_refused():
    with pytest.raises(ValueError, match="'open', but must be one of signed, share"):
        LiberoEnvironment(Recorded(), np.eye(2), "libero_goal/1", "open", 300, "open")


@pytest.mark.parametrize(
    ("name", "language", "expected"),
    [
        (BOWL, "as the suite says", "as the suite says"),
        (f"{BOWL}_view_0_0_100_2_352_initstate_0", "x", BOWL.replace("_", " ")),
        (f"{BOWL}_table_1", "x", BOWL.replace("_", " ")),
        (f"{BOWL}_noise_26", "x", BOWL.replace("_", " ")),
        (f"{BOWL}_moved_level2_sample3", "x", BOWL.replace("_", " ")),
        (f"{BOWL}_add_3", "x", BOWL.replace("_", " ")),
        (f"{BOWL}_language_4", "put the bowl where food goes", "put the bowl where food goes"),
        ("KITCHEN_SCENE3_turn_on_the_stove_light_7", "x", "turn on the stove"),
        ("turn_on_the_light", "turn on the light", "turn on the light"),
        ("put_the_bowl_on_the_table", "put the bowl on the table", "put the bowl on the table"),
    ],
)
def test_names_of_variations_are_no_part_of_an_instruction(name, language, expected):
    assert plain_instruction(name, language) == expected


@pytest.mark.parametrize(
    ("file", "place"),
    [
        (f"{BOWL}.pruned_init", f"libero_spatial/{BOWL}.pruned_init"),
        (f"{BOWL}_view_0_0_100_2_352_initstate_0.pruned_init", f"libero_spatial/{BOWL}.pruned_init"),
        (f"{BOWL}_language_3.pruned_init", f"libero_spatial/{BOWL}.pruned_init"),
        (f"{BOWL}_tb_3.pruned_init", f"libero_spatial/{BOWL}.pruned_init"),
        (f"{BOWL}_add_3.pruned_init", f"libero_newobj/libero_spatial/{BOWL}_add_3.pruned_init"),
        (f"{BOWL}_level1_sample0.pruned_init", f"libero_newobj/libero_spatial/{BOWL}_level1_sample0.pruned_init"),
    ],
)
def test_variations_begin_as_their_plain_task(file, place):
    assert str(states_place("libero_spatial", file)) == place


@pytest.mark.parametrize("numpy_name", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
@pytest.mark.parametrize("states", [np.random.default_rng(0).random((3, 5)), np.arange(4.0)])
def test_initial_states_are_read_as_both_numpys_write_them(states, numpy_name, tmp_path):
    torch.save(states, tmp_path / "new")
    with zipfile.ZipFile(tmp_path / "new") as new, zipfile.ZipFile(tmp_path / "states", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            old.writestr(name, re.sub(rb"numpy\._?core\.multiarray", numpy_name, content))

    assert np.array_equal(read_states(tmp_path / "states"), states.reshape(-1, states.shape[-1]))


class Harmful:
    def __reduce__(self):
        return (print, ("ran",))


def test_nothing_in_a_file_of_states_is_run(tmp_path, capsys):
    torch.save(Harmful(), tmp_path / "states")

    with pytest.raises(Exception, match="Weights only load failed"):
        read_states(tmp_path / "states")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("task", ["libero_spatial", "libero_spatial/x", "libero_5/1", "libero_10/-1"])
def test_a_task_that_is_none_is_refused(task):
    with pytest.raises(ValueError, match="is no task: give SUITE/NUMBER"):
        suite_and_number(task)


def test_without_libero_its_page_is_named():
    with pytest.raises(ValueError, match="The package libero is not installed"):
        libero_environment("libero_goal/3")
