"""A model's policy in the closed loop, from demonstrations of an expert to a result file."""

import numpy as np
import pytest
import torch

from robotics.line_world import LineWorld, line_world
from tiny_checkpoints import FROZEN
from vega3d.robotics.runners import Job, Plan, run_jobs

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
CHUNK, ROBOT = 3, {"views": ("front",), "sizes": (1, 2)}
HEADER = {"benchmark": "line", "settings": {"most_steps": 6, "execute": 2}}


@pytest.fixture(scope="module", params=[1, 2], ids=["one frame", "two frames"])
def policy(request, tmp_path_factory):
    """The folder of a policy that has seen an expert of the line, and was not trained."""
    from vega3d.hub.load import load_vega
    from vega3d.robotics import statistics
    from vega3d.robotics.episode_writer import EpisodeWriter
    from vega3d.training import ActionOptions, DataSource
    from vega3d.training.actions import PolicyData, policy_of

    folder = tmp_path_factory.mktemp("policy")
    with EpisodeWriter(folder / "data", 10) as writer:
        plan = Plan(line_world(), "expert", record=True)
        for _, recording in run_jobs(plan, [Job("near", seed) for seed in range(2)]):
            writer.write(recording.frames, recording.states, recording.actions, LineWorld.instruction)
    options = ActionOptions(chunk=CHUNK, frames=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics.constants, "HF_HOME", str(folder / "hf"))
        start, processor = load_vega(FROZEN, device="cpu")
        rows = PolicyData(DataSource(str(folder / "data")), options)
        model = policy_of(start, processor.tokenizer, rows, options, 0)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


def test_a_model_is_measured_as_it_answers(policy, tmp_path):
    from recipes.policies import ModelPolicy, measure

    jobs, shown = [Job("near", 1000), Job("near", 1001)], []

    def make(views, every):
        shown.append((views, every))
        return line_world()

    result = measure(
        str(policy),
        jobs,
        make,
        ROBOT,
        HEADER,
        tmp_path / "out.json",
        2,
        "cpu",
        lambda count: None,
    )

    answers = ModelPolicy(str(policy), "cpu", **ROBOT)
    assert shown == [(("front",), 2 if answers.frames == 1 else 1)]
    assert result["policy"]["name"] == str(policy) and len(result["policy"]["sha256"]) == 64
    for episode, job in zip(result["episodes"], jobs, strict=True):
        world = LineWorld(job.task)
        seen, steps = [world.reset(job.seed)], 0
        while steps < episode["steps"]:
            frames = [seen[max(0, len(seen) - back)].images["front"] for back in range(answers.frames, 0, -1)]
            image = frames[0] if answers.frames == 1 else np.stack(frames)
            actions = answers.predict_actions({"front": image}, LineWorld.instruction, seen[-1].state)
            assert actions.shape == (CHUNK, 2)
            for action in actions[: min(2, episode["steps"] - steps)]:
                observation, success = world.step(action.clip(-1, 1).astype(np.float32))
                seen.append(observation)
                steps += 1
        assert success == episode["success"] and episode["queries"] == -(-episode["steps"] // 2)


@pytest.mark.parametrize("robot", [ROBOT | {"views": ("top",)}, ROBOT | {"sizes": (4, 4)}])
def test_a_policy_of_another_robot_is_refused(policy, robot):
    from recipes.policies import ModelPolicy

    with pytest.raises(ValueError, match=r"sees \['front'\], with states of 1 and actions of 2 numbers, but here are"):
        ModelPolicy(str(policy), "cpu", **robot)


def test_a_policy_is_exported_in_16_bits_and_without_code(policy, tmp_path, capsys):
    from recipes.metaworld import commands
    from vega3d import VegaForActionPrediction
    from vega3d_cli import run

    assert run(["export", str(policy), str(tmp_path / "small")], commands.app, commands.NAME) == 0

    assert f"{tmp_path / 'small'}: " in capsys.readouterr().out
    assert list(policy.glob("*.py")) and not list((tmp_path / "small").glob("*.py"))
    assert "auto_map" not in (tmp_path / "small" / "config.json").read_text()
    before, after = (VegaForActionPrediction.from_pretrained(folder) for folder in (policy, tmp_path / "small"))
    assert after.dtype == torch.bfloat16
    for name, value in after.state_dict().items():
        torch.testing.assert_close(value, before.state_dict()[name].to(value.dtype), rtol=0, atol=0)
    assert run(["export", str(policy), str(tmp_path / "small")], commands.app, commands.NAME) == 2
