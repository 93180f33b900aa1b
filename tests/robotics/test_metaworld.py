"""Meta-World: conventions of images, states and actions, its experts, and demonstrations of them."""

import importlib.util
import json
import warnings

import numpy as np
import pytest

from recipes.metaworld import commands
from recipes.metaworld.demonstrations import record_demonstrations
from vega3d.journals import Journal
from vega3d.robotics.closed_loop import Expert, Nothing, run_episode
from vega3d.robotics.lerobot_dataset import LeRobotFolder
from vega3d.robotics.metaworld import INSTRUCTIONS, VIEWS, MetaWorldEnvironment, simulator
from vega3d.robotics.runners import Job, Plan, run_jobs
from vega3d_cli import run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed: `make test-robot` installs it"
)
SIZE = 96
UP = np.array([0, 0, 1, -1], np.float32)
RECORDED = (commands.environments(tuple(VIEWS), 32, "egl"), ["coffee-button-v3"], 2, 300)


@pytest.fixture(scope="module")
def reach():
    """With pictures: the red ball of `reach` is the goal."""
    with MetaWorldEnvironment("reach-v3", size=SIZE) as environment:
        yield environment


def moved(environment, action, steps):
    """States before and after `steps` of an action."""
    before = environment.reset(3).state
    for _ in range(steps):
        observation, _ = environment.step(np.asarray(action, np.float32))
    return before, observation.state


def projected(environment, view: str, point) -> tuple[float, float]:
    """Row and column of a point of the world [m] in an upright image, by the pinhole camera of the simulator."""
    model, data = environment._simulation.model, environment._simulation.data
    camera = data.camera(VIEWS[view])
    x, y, z = camera.xmat.reshape(3, 3).T @ (np.asarray(point) - camera.xpos)  # right, up, backwards
    focal = SIZE / 2 / np.tan(np.radians(model.camera(VIEWS[view]).fovy[0]) / 2)
    row, column = SIZE / 2 + focal * y / z, SIZE / 2 - focal * x / z
    return (SIZE - row, SIZE - column) if view == "front" else (row, column)


def test_all_tasks_of_the_package_have_an_instruction():
    simulator("egl")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert INSTRUCTIONS.keys() == ALL_V3_ENVIRONMENTS.keys()


@pytest.mark.parametrize(("axis", "sign"), [(axis, sign) for axis in range(3) for sign in (1, -1)])
def test_an_action_of_one_moves_the_hand_a_centimetre_a_step_along_its_axis(axis, sign):
    action = np.zeros(4)
    action[axis] = sign

    with MetaWorldEnvironment("reach-v3", views=()) as environment:
        before, after = moved(environment, action, 8)

    way = (after - before)[:3]
    assert 0.04 < sign * way[axis] < 0.09
    assert np.abs(np.delete(way, axis)).max() < 0.015


def test_one_closes_the_gripper_and_minus_one_opens_it():
    with MetaWorldEnvironment("reach-v3", views=()) as environment:
        (_, _, _, at_first), (_, _, _, closed) = moved(environment, [0, 0, 0, 1], 15)
        for _ in range(15):
            opened, _ = environment.step(environment.rest_action)

    assert at_first > 0.9 and closed < 0.5 and opened.state[3] > 0.9


def test_images_are_upright_and_views_in_order(reach):
    """The front camera sees the hand rise where it rises, and the goal's ball is where a pinhole camera has it."""
    observation = reach.reset(3)
    goal = reach._numbers[-3:]

    assert list(observation.images) == ["front", "wrist"] == list(VIEWS)
    for view, image in observation.images.items():
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        row, column = projected(reach, view, goal)
        if view == "front" or (0 <= row < SIZE and 0 <= column < SIZE):
            pixel = image[int(row), int(column)].astype(int)
            assert pixel[0] > 2 * pixel[1:].max(), (view, row, column, pixel)
    rows = [projected(reach, "front", observation.state[:3] + np.array([0, 0, height]))[0] for height in (0, 0.1, 0.2)]
    assert rows == sorted(rows, reverse=True)


def test_pixels_change_further_up_when_the_hand_has_risen(reach):
    low = reach.reset(3).images["front"].astype(int)
    changed = []
    for _ in range(2):
        for _ in range(8):
            observation, _ = reach.step(UP)
        image = observation.images["front"].astype(int)
        changed.append(np.argwhere(np.abs(image - low).max(-1) > 60)[:, 0].min())
    expected = projected(reach, "front", observation.state[:3])[0]

    assert changed[1] < changed[0]
    assert changed[1] < expected < SIZE


def test_states_and_images_are_those_of_the_environment_that_lerobot_makes(reach):
    """Its construction: a drawn task, then seeds; the camera moved nearer and its image turned by 180 degrees."""
    import metaworld

    benchmark = metaworld.MT1("reach-v3", seed=42)
    other = benchmark.train_classes["reach-v3"](
        render_mode="rgb_array", camera_name="corner2", width=SIZE, height=SIZE
    )
    other.set_task(benchmark.train_tasks[0])
    other.model.cam_pos[2] = [0.75, 0.075, 0.7]
    other.model.vis.quality.shadowsize, other.model.vis.quality.offsamples = 1024, 0
    other.reset()
    other._freeze_rand_vec, other.seeded_rand_vec = False, True
    for seed in (1000, 1001):
        other.seed(seed)
        first, _ = other.reset(seed=seed)
        assert np.array_equal(reach.reset(seed).state, first[:4].astype(np.float32))
        for action in (UP, [0.5, -1, 0, 0.3]):
            numbers, *_ = other.step(np.array(action, np.float32))
            observation, _ = reach.step(np.array(action, np.float32))

        assert np.array_equal(reach._numbers, numbers)
        assert np.array_equal(observation.images["front"], np.flip(other.render(), (0, 1)))
    other.mujoco_renderer.close()


@pytest.mark.parametrize("task", ["drawer-open-v3", "coffee-push-v3", "reach-v3"])
def test_what_is_first_seen_is_where_it_stays(task):
    """The package moves objects and goals after it has computed where everything is seen."""
    with MetaWorldEnvironment(task, views=()) as environment:
        environment.reset(3)
        data, places = environment._simulation.data, []
        for _ in range(2):
            places.append(np.concatenate([data.xpos, data.site_xpos]))
            numbers = environment._numbers
            environment.step(environment.rest_action)

    assert np.abs(places[1] - places[0]).max() < 0.02
    assert np.abs(environment._numbers[4:7] - numbers[4:7]).max() < 0.01


@pytest.mark.parametrize("task", commands.TASKS)
def test_an_initial_state_depends_on_the_seed_alone(task):
    with MetaWorldEnvironment(task, views=()) as used, MetaWorldEnvironment(task, views=()) as fresh:
        run_episode(used, Expert(used), 8, most_steps=30)
        states = [environment.reset(5) and environment._numbers.copy() for environment in (used, fresh)]
        other = fresh.reset(6) and fresh._numbers

        assert np.array_equal(*states)
        assert np.abs(other - states[0]).max() > 0.005


def test_an_unknown_task_view_size_or_renderer_is_refused():
    for arguments, match in (
        ({"task": "reach-v2"}, "'reach-v2' is no task of Meta-World. Give one of .*reach-v3"),
        ({"task": "reach-v3", "views": ("top",)}, r"\['top'\] of 128 px"),
        ({"task": "reach-v3", "size": 99}, "of 99 px"),
        ({"task": "reach-v3", "renderer": "vulkan"}, "renderer is 'vulkan', but must be one of egl, osmesa, glfw"),
    ):
        with pytest.raises(ValueError, match=match):
            MetaWorldEnvironment(**arguments)
    simulator("egl")
    with pytest.raises(ValueError, match="imported with the renderer egl, and cannot change to osmesa"):
        simulator("osmesa")


def test_expert_actions_are_within_the_limits_and_quiet():
    with MetaWorldEnvironment("push-v3", views=()) as environment, warnings.catch_warnings():
        warnings.simplefilter("error")
        episode = run_episode(environment, Expert(environment), 0)

        assert episode.success and episode.clipped == 0
        assert not run_episode(environment, Nothing(environment), 0, most_steps=100).success


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of two demonstrations, and what they were made from."""
    folder = tmp_path_factory.mktemp("demonstrations") / "whole"
    return folder, record_demonstrations(folder, *RECORDED)


def test_demonstrations_do_the_task_again_in_a_fresh_environment(recorded):
    folder, found = recorded
    data = LeRobotFolder(folder)

    assert (data.cameras, data.fps, len(data)) == (("front", "wrist"), 80, 2)
    for number, seed in enumerate(found["seeds"]["coffee-button-v3"]["recorded"]):
        states, actions = data.numbers(number)
        assert data.task(number) == INSTRUCTIONS["coffee-button-v3"] and np.abs(actions).max() <= 1
        with MetaWorldEnvironment("coffee-button-v3", size=32) as shown:
            image = shown.reset(seed).images
        for view in VIEWS:
            assert np.abs(data.frames(number, view, [0])[0].astype(int) - image[view]).mean() < 12
        with MetaWorldEnvironment("coffee-button-v3", views=()) as environment:
            seen = [environment.reset(seed).state]
            outcomes = []
            for action in actions:
                observation, success = environment.step(action)
                seen.append(observation.state)
                outcomes.append(success)
        assert np.array_equal(seen[:-1], states)
        assert outcomes == [False] * (len(actions) - 1) + [True]


def test_noise_moves_the_hand_and_the_expert_comes_back(tmp_path):
    task = "coffee-button-v3"
    make = commands.environments(("front",), 32, "egl", noise=0.2, every=4)
    record_demonstrations(tmp_path / "noisy", make, [task], 1, 300)
    data = LeRobotFolder(tmp_path / "noisy")
    states, actions = data.numbers(0)
    seen = {}
    for noise in (0.2, 0):
        with MetaWorldEnvironment(task, views=(), noise=noise) as environment:
            first = environment.reset(0).state
            seen[noise] = np.stack([first, *(environment.step(action)[0].state for action in actions[:-1])])

    np.testing.assert_array_equal(seen[0.2], states)
    assert np.abs(seen[0] - states)[:, :3].max() > 0.005
    assert data.seen_every == 4
    frames = data.frames(0, "front", range(12)).astype(int)
    changed = np.abs(np.diff(frames, axis=0)).max((1, 2, 3)) > 40
    assert changed[[3, 7]].all() and not np.delete(changed, [3, 7]).any()
    with pytest.raises(ValueError, match="noise 2 and an image every 1 steps; noise is 0 to 1"):
        MetaWorldEnvironment(task, noise=2)


class KilledError(Exception):
    """Ends a run as a kill does."""


def test_killed_demonstrations_continue_and_end_with_the_same_files(recorded, tmp_path, monkeypatch):
    append = Journal.append

    def killed(journal, values):  # after an episode is in the folder, and before it is in the journal
        if "coffee-button-v3 1" in values.get("answers", {}):
            raise KilledError
        append(journal, values)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Journal, "append", killed)
        record_demonstrations(tmp_path / "killed", *RECORDED)
    assert len(LeRobotFolder(tmp_path / "killed")) == 2
    assert (tmp_path / "killed.partial.jsonl").exists()

    record_demonstrations(tmp_path / "killed", *RECORDED, processes=2)

    assert files_of(tmp_path / "killed") == files_of(recorded[0])
    assert not (tmp_path / "killed.partial.jsonl").exists()


def test_finished_demonstrations_are_left_as_they_are(recorded):
    folder, found = recorded
    before = files_of(folder)

    assert record_demonstrations(folder, *RECORDED) == found
    with pytest.raises(ValueError, match="episodes was 2 and is 3"):
        record_demonstrations(folder, *RECORDED[:2], 3, 300)
    assert files_of(folder) == before


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_of_another_making_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    with pytest.raises(ValueError, match="holds what this command has not begun"):
        record_demonstrations(tmp_path / "mine", commands.environments(("front",), 32, "egl"), ["reach-v3"], 1, 300)


def test_baselines_are_measured_and_compared_from_the_command_line(tmp_path, capfd):
    tasks = ["--tasks", "reach-v3", "coffee-button-v3", "--episodes", "3", "--most-steps", "150"]
    for policy in ("expert", "nothing"):
        output = str(tmp_path / f"{policy}.json")
        assert (
            run(["evaluate", policy, "--output", output, "--processes", "2", *tasks], commands.app, commands.NAME) == 0
        )
    capfd.readouterr()
    files = ["--first", str(tmp_path / "nothing.json"), "--second", str(tmp_path / "expert.json"), "--json"]
    assert run(["compare", *files], commands.app, commands.NAME) == 0

    found = json.loads(capfd.readouterr().out)["all tasks"]

    assert (found["first"], found["second"], found["initial_states"]) == (0, 1, 6)
    assert 0.3 < found["low"] < 1 == found["high"]


def test_a_run_in_processes_is_that_of_one_environment():
    job = Job("coffee-button-v3", 1000)
    make = commands.environments((), 32, "egl")

    ((episode, _),) = run_jobs(Plan(make, "expert", 200), [job])

    with MetaWorldEnvironment(job.task, views=()) as environment:
        assert episode == run_episode(environment, Expert(environment), job.seed, 200)
