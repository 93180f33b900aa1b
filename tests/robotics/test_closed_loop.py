"""The closed loop: what a policy is asked, what is carried out, and when an episode ends."""

import numpy as np
import pytest

from robotics.line_world import LineWorld, Seeing, line_world
from vega3d.robotics.closed_loop import BASELINES, Blind, Episode, Expert, run_episode
from vega3d.robotics.runners import Job, Plan, run_jobs

JOBS = [Job(task, seed) for task in ("near", "further") for seed in range(4)]


class Given:
    """A policy that always gives the same chunk."""

    def __init__(self, chunk):
        self.chunk = chunk

    def predict_actions(self, images, instruction, state):
        return self.chunk


def test_an_episode_ends_with_its_first_success():
    world = LineWorld("near")
    world.reset(1)
    distance = world.goal - world.at

    episode = run_episode(world, Expert(world), 1)

    assert episode.success and episode.steps == episode.queries
    assert episode.steps == int(np.ceil((distance - 0.05) / 0.1))


def test_an_episode_that_does_not_succeed_takes_all_steps():
    world = LineWorld("near")

    assert run_episode(world, Expert(world), 4) == Episode("near", 4, False, 40, 40, 0.0)
    assert run_episode(world, Expert(world), 4, most_steps=7).steps == 7


@pytest.mark.parametrize(("execute", "queries"), [(None, 4), (3, 4), (2, 5), (1, 10)])
def test_a_chunk_is_carried_out_before_the_next_query(execute, queries):
    chunk = np.array([[0.3, 0], [0.2, 0], [0.1, 0]])
    carried_out = []

    episode = run_episode(
        LineWorld("near"),
        Given(chunk),
        4,
        10,
        execute,
        on_step=lambda _, action: carried_out.append(round(float(action[0]), 1)),
    )

    assert (episode.queries, episode.steps) == (queries, 10)
    assert carried_out == ([0.3, 0.2, 0.1][: execute or 3] * 10)[:10]


def test_a_policy_sees_the_last_frames_the_first_one_repeated():
    shown = []

    class Watching(Given):
        def predict_actions(self, images, instruction, state):
            shown.append(images["front"][:, 0, :, 1].argmax(1).tolist())
            return self.chunk

    run_episode(LineWorld("near"), Watching(np.array([[0.5, 0], [0.5, 0]])), 4, 6, frames=3)

    world = LineWorld("near")
    places = [world.reset(4)] + [world.step(np.array([0.5, 0], np.float32))[0] for _ in range(4)]
    columns = [observation.images["front"][0, :, 1].argmax() for observation in places]
    assert shown == [[columns[0]] * 3, columns[:3], columns[2:5]] and len(set(columns)) == 5


def test_actions_beyond_the_limits_are_carried_out_as_the_limit_and_counted():
    seen = []

    episode = run_episode(LineWorld("near"), Given(np.array([[3.0, -0.5]])), 4, 4, on_step=lambda _, a: seen.append(a))

    assert episode.clipped == 0.5
    assert np.stack(seen).tolist() == [[1, -0.5]] * 4


@pytest.mark.parametrize(
    "chunk", [np.zeros(2), np.zeros((1, 3)), np.zeros((0, 2)), np.array([[np.nan, 0]]), np.array([[0, np.inf]])]
)
def test_what_is_no_chunk_of_actions_is_refused(chunk):
    with pytest.raises(ValueError, match=r"near, step 0: the policy gave actions .* must be finite numbers \[K, 2\]"):
        run_episode(LineWorld("near"), Given(chunk), 0)


@pytest.mark.parametrize("limits", [{"most_steps": 0}, {"most_steps": 41}, {"execute": 0}, {"execute": 2}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(ValueError, match=f"{next(iter(limits))} is {next(iter(limits.values()))}, but"):
        run_episode(LineWorld("near"), Given(np.zeros((1, 2))), 0, **limits)


def test_a_blind_policy_repeats_what_the_expert_does_from_another_state():
    world, actions = LineWorld("near"), []

    run_episode(world, Blind(world, 2), 2, on_step=lambda _, action: actions.append(action))
    expected = []
    run_episode(world, Expert(world), 2 + 1_000_003, on_step=lambda _, action: expected.append(action))

    assert np.array_equal(actions[: len(expected)], expected)
    assert np.array_equal(actions[len(expected) :], np.zeros((len(actions) - len(expected), 2)))


@pytest.mark.parametrize("baseline", ["random", "blind"])
def test_processes_change_no_result(baseline):
    plan = Plan(line_world(), baseline, most_steps=25)

    alone = [run_episode(w := LineWorld(job.task), BASELINES[baseline](w, job.seed), job.seed, 25) for job in JOBS]

    assert [episode for episode, _ in run_jobs(plan, JOBS, 3)] == alone


def test_a_model_answers_all_processes_from_one_place():
    policy = Seeing()

    episodes = [episode for episode, _ in run_jobs(Plan(line_world()), JOBS, 2, policy)]

    assert [(one.task, one.seed) for one in episodes] == [(job.task, job.seed) for job in JOBS]
    assert all(one.success for one in episodes) and 0 < episodes[0].clipped < 1
    assert policy.asked == sum(one.queries for one in episodes)


def test_what_was_seen_and_done_is_recorded_of_successes_alone():
    (good, recording), (bad, nothing) = run_jobs(
        Plan(line_world(), "expert", record=True), [Job("near", 0), Job("near", 4)]
    )

    assert good.success and not bad.success and nothing is None
    assert recording.frames["front"].shape == (good.steps, 32, 64, 3) and recording.states.shape == (good.steps, 1)
    world = LineWorld("near")
    first = world.reset(0)
    assert np.array_equal(recording.frames["front"][0], first.images["front"])
    assert np.array_equal(recording.states[0], first.state)
    outcomes = [world.step(action)[1] for action in recording.actions]
    assert outcomes == [False] * (good.steps - 1) + [True]


def test_a_process_that_ends_ends_the_run():
    with pytest.raises(RuntimeError, match=r"seed=2.*its process ended with code 7"):
        list(run_jobs(Plan(line_world(dies_at=2), "expert"), JOBS[:4], 2))


def test_an_error_in_a_process_ends_the_run_with_its_words():
    with pytest.raises(RuntimeError, match=r"seed=0.*ValueError: most_steps is 99, but an episode of near"):
        list(run_jobs(Plan(line_world(), "expert", most_steps=99), JOBS[:1]))
