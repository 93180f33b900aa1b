"""Result files of policies: continued after a kill, checked, and compared on the same initial states."""

import json

import numpy as np
import pytest

from robotics.line_world import Seeing, line_world
from vega3d.robotics.results import (
    OVERALL,
    compare_policies,
    evaluate_policy,
    format_comparison,
    format_summary,
    read_result,
)
from vega3d.robotics.runners import Job, Plan

JOBS = [Job(task, seed) for task in ("near", "further") for seed in range(5)]
HEADER = {"benchmark": "line", "policy": "expert", "settings": {"most_steps": 40}}
PLAN = Plan(line_world(), "expert")


class KilledError(Exception):
    """Ends a run as a kill does."""


def result_of(
    outcomes: dict[str, list[bool]], first_seed: int = 0, policy: str = "expert", most_steps: int = 40
) -> dict:
    episodes = [
        {"task": task, "seed": first_seed + number, "success": success, "steps": 3, "queries": 3, "clipped": 0.0}
        for task, group in outcomes.items()
        for number, success in enumerate(group)
    ]
    settings = {"most_steps": most_steps}
    return {
        "format": "vega3d-episodes-1",
        "benchmark": "line",
        "policy": policy,
        "settings": settings,
        "episodes": episodes,
    }


def test_a_result_counts_successes_of_each_task_and_of_all(tmp_path):
    result = evaluate_policy(PLAN, JOBS, HEADER, tmp_path / "expert.json", processes=2)

    assert {task: (rate["successes"], rate["episodes"]) for task, rate in result["summary"].items()} == {
        "near": (4, 5),
        "further": (4, 5),
        OVERALL: (8, 10),
    }
    assert (result["summary"]["near"]["low"], result["summary"]["near"]["high"]) == pytest.approx(
        (0.3755, 0.9638), abs=1e-4
    )
    assert json.loads((tmp_path / "expert.json").read_text()) == result == read_result(tmp_path / "expert.json")
    assert format_summary(result).splitlines()[-1].split()[:3] == ["all", "tasks", "0.80"]
    assert [file.name for file in tmp_path.iterdir()] == ["expert.json"]


def test_a_killed_run_continues_and_ends_with_the_same_bytes(tmp_path):
    evaluate_policy(PLAN, JOBS, HEADER, tmp_path / "whole.json")
    done = []

    def kill(count: int) -> None:
        done.append(count)
        if sum(done) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate_policy(PLAN, JOBS, HEADER, tmp_path / "killed.json", on_progress=kill)
    assert not (tmp_path / "killed.json").exists()
    counts = []
    evaluate_policy(PLAN, JOBS, HEADER, tmp_path / "killed.json", on_progress=counts.append, processes=2)

    assert counts == [4] + [1] * 6
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_finished_run_is_not_repeated_and_another_is_refused(tmp_path):
    output = tmp_path / "out.json"
    policy = Seeing()
    first = evaluate_policy(Plan(line_world()), JOBS[:2], HEADER, output, policy)
    asked = policy.asked

    assert evaluate_policy(Plan(line_world()), JOBS[:2], HEADER, output, policy) == first and policy.asked == asked
    with pytest.raises(ValueError, match="of another run: policy was 'expert' and is 'other'"):
        evaluate_policy(Plan(line_world()), JOBS[:2], HEADER | {"policy": "other"}, output, policy)
    with pytest.raises(ValueError, match="of another run: initial_states"):
        evaluate_policy(Plan(line_world()), JOBS[:3], HEADER, output, policy)


@pytest.mark.parametrize("jobs", [[], [JOBS[0], JOBS[0]]])
def test_each_initial_state_is_given_once(jobs, tmp_path):
    with pytest.raises(ValueError, match="give each once"):
        evaluate_policy(PLAN, jobs, HEADER, tmp_path / "out.json")


@pytest.mark.parametrize("answer", ['{"near 0": 3}', '{"near 0": {"task": "near"}}', '{"near 1": %s}'])
def test_a_damaged_journal_is_refused(answer, tmp_path):
    episode = json.dumps(result_of({"near": [True]})["episodes"][0])
    header = {"format": "vega3d-episodes-1", **HEADER, "initial_states": {"near": [0]}}
    lines = [json.dumps(header), f'{{"answers": {answer.replace("%s", episode)}}}', ""]
    (tmp_path / "out.json.partial.jsonl").write_text("\n".join(lines))

    with pytest.raises(ValueError, match=r"near \d is .*no episode"):
        evaluate_policy(PLAN, JOBS[:1], HEADER, tmp_path / "out.json")


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"episodes": []}, {"episodes": [3]}, {"episodes": [{"task": "near", "seed": 0, "success": 1}]}],
)
def test_a_file_that_is_no_result_is_refused(change, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(result_of({"near": [True]}) | change))

    with pytest.raises(ValueError, match=r"x\.json.* but must .*Evaluate the policy again"):
        read_result(tmp_path / "x.json")


def test_a_difference_is_of_pairs():
    first = {"a": result_of({"near": [True, True, False, False], "further": [True] * 4})}
    second = {"b": result_of({"near": [True, False, True, True], "further": [True] * 4}, policy="other")}

    found = compare_policies(first, second)

    assert {task: (one["difference"], one["only_first"], one["only_second"]) for task, one in found.items()} == {
        "near": (0.25, 1, 2),
        "further": (0.0, 0, 0),
        OVERALL: (0.125, 1, 2),
    }
    assert found["further"]["low"] < 0 < found["further"]["high"]
    assert compare_policies(second, first)["near"]["difference"] == -0.25
    assert "+0.12" in format_comparison(found).splitlines()[-1]


def test_training_seeds_are_drawn_with_the_states():
    random = np.random.default_rng(0)
    arms = [
        {
            f"{rate}-{seed}": result_of({"near": (random.random(60) < rate).tolist()}, policy=f"{rate} {seed}")
            for seed in range(3)
        }
        for rate in (0.3, 0.8)
    ]

    found = compare_policies(*arms)["near"]

    means = [np.mean([one["success"] for result in arm.values() for one in result["episodes"]]) for arm in arms]
    assert found["difference"] == pytest.approx(means[1] - means[0])
    assert 0.3 < found["low"] < found["difference"] < found["high"] < 0.7


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"outcomes": {"near": [True] * 3}}, "4 initial states and b 3"),
        ({"outcomes": {"near": [True] * 4}, "first_seed": 1}, r"\('near', 0\) is in one alone"),
        ({"outcomes": {"near": [True] * 4}, "most_steps": 20}, "most_steps"),
    ],
)
def test_results_of_other_states_are_not_compared(other, match):
    with pytest.raises(ValueError, match=match):
        compare_policies({"a": result_of({"near": [True] * 4})}, {"b": result_of(**other)})


def test_a_copy_is_no_other_training_seed():
    same = result_of({"near": [True] * 4})

    with pytest.raises(ValueError, match=r"a and b are of one policy"):
        compare_policies({"a": same, "b": same}, {"c": result_of({"near": [True] * 4}, policy="other")})
