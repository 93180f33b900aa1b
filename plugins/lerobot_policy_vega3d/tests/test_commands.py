"""LeRobot's own commands, as a user types them: train, go on, evaluate in Meta-World."""

import json
from pathlib import Path

import pytest
import torch
from lerobot_policy_vega3d.modeling_vega3d import CHECKPOINT, Vega3dPolicy
from plugin_data import BASE, SHORT, batch_of, lerobot
from safetensors.torch import load_file

from vega3d import VegaForActionPrediction
from vega3d.hub.load import load_task

RENAMED = '--rename_map={"observation.image": "observation.images.front"}'


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / CHECKPOINT / "model.safetensors")


def evaluated(folder: Path, *options: str) -> dict:
    world = ("--env.type=metaworld", "--env.task=reach-v3", "--eval.n_episodes=1", "--eval.batch_size=1")
    done = lerobot("eval", *world, "--policy.device=cpu", f"--output_dir={folder}", *options, program=SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "eval_info.json").read_text())["overall"]


def test_a_run_trains_the_parts_named_and_no_others(run, checkpoint, demonstrations):
    before, after = weights(run / "checkpoints" / "000010" / "pretrained_model"), weights(checkpoint)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in after} == {"action_head", "model"}
    assert {name for name in after if name.startswith("action_head.")} <= moved
    assert not [name for name in moved if name.startswith("model.vlm.")]
    assert "model.fusion.residual_scale" in moved

    half = Vega3dPolicy.from_pretrained(run / "checkpoints" / "000010" / "pretrained_model")
    policy, batch = Vega3dPolicy.from_pretrained(checkpoint), batch_of(demonstrations, *range(24))
    with torch.no_grad():
        assert policy(batch)[0] < half(batch)[0]


def test_a_run_goes_on_with_its_optimizer(run, tmp_path):
    config = run / "checkpoints" / "last" / "pretrained_model" / "train_config.json"
    done = lerobot("train", f"--config_path={config}", "--resume=true", "--steps=22")

    assert done.returncode == 0, done.stderr[-3000:]
    state = load_file(run / "checkpoints" / "000022" / "training_state" / "optimizer_state.safetensors")
    assert {int(value) for name, value in state.items() if name.endswith("/step")} == {22}


def test_an_episode_of_metaworld(checkpoint, tmp_path):
    result = evaluated(tmp_path / "eval", f"--policy.path={checkpoint}", RENAMED)

    assert result["n_episodes"] == 1 and len(result["video_paths"]) == 1


def test_a_policy_of_vega3d_is_evaluated_as_it_is(checkpoint, tmp_path):
    base = f"--policy.base_model={checkpoint / CHECKPOINT}"
    cameras = "--policy.cameras={front: observation.image}"

    result = evaluated(
        tmp_path / "a", "--policy.type=vega3d", base, cameras, "--policy.chunk_size=3", "--policy.n_action_steps=2"
    )

    assert (
        result["avg_sum_reward"] == evaluated(tmp_path / "b", f"--policy.path={checkpoint}", RENAMED)["avg_sum_reward"]
    )


def test_a_checkpoint_holds_one_of_vega3d(checkpoint):
    model, _ = load_task(VegaForActionPrediction, checkpoint / CHECKPOINT, device="cpu")

    assert model.config.action_cameras == ["front"] and model.config.action_statistics["dataset"] == "local/toy"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--policy.tune=[llm-lora]", "tune names llm-lora"),
        ("--policy.tune=[wheels]", "no part 'wheels'"),
        ("--policy.n_action_steps=9", "n_action_steps is 9"),
    ],
)
def test_bad_options_end_before_the_data_is_read(option, said, tmp_path):
    known = ("--policy.type=vega3d", f"--policy.base_model={BASE}", "--policy.push_to_hub=false")
    done = lerobot("train", *known, "--dataset.repo_id=local/none", f"--dataset.root={tmp_path / 'none'}", option)

    assert done.returncode != 0 and said in done.stderr
