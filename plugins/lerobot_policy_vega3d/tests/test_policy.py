"""The policy on LeRobot's batches: what it is shown, what it says, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from draccus.utils import DecodingError
from huggingface_hub import ModelCard
from lerobot.configs import NormalizationMode
from lerobot.configs.train import TrainPipelineConfig
from lerobot.utils.feature_utils import dataset_to_policy_features
from lerobot_policy_vega3d.configuration_vega3d import Vega3dConfig
from lerobot_policy_vega3d.modeling_vega3d import CHECKPOINT, Vega3dPolicy, as_bytes
from lerobot_policy_vega3d.processor_vega3d import make_vega3d_pre_post_processors
from plugin_data import BASE, CHUNK, batch_of, rows_of

from hub.hub_process import serving, talk_to
from vega3d import VegaForActionPrediction
from vega3d.hub.load import load_task
from vega3d.robotics.episode_folder import open_demonstrations
from vega3d.robotics.windows import ActionWindows
from vega3d.training import ActionCollator

PLACES = (0, 5, 11, 23)  # the last two end an episode, so that their chunks are padded


@pytest.fixture
def policy(checkpoint) -> Vega3dPolicy:
    return Vega3dPolicy.from_pretrained(checkpoint)


@pytest.fixture
def batch(demonstrations) -> dict:
    return batch_of(demonstrations, *PLACES)


@pytest.fixture(scope="module")
def ours(checkpoint, demonstrations):
    """The same policy and rows, read by vega3d alone."""
    model, processor = load_task(VegaForActionPrediction, checkpoint / CHECKPOINT, device="cpu")
    windows = ActionWindows(open_demonstrations(demonstrations), CHUNK, 1, ("front",))
    return model, processor, [windows[place] for place in PLACES]


def test_loss_and_actions_are_those_of_vega3d(policy, batch, ours):
    model, processor, rows = ours
    with torch.no_grad():
        loss, _ = policy(batch)
        expected = model(**ActionCollator(processor, config=model.config)(rows)).loss
    assert batch["action_is_pad"].any()
    torch.testing.assert_close(loss, expected)

    actions = model.predict_actions(
        processor, [row["images"] for row in rows], batch["task"], batch["observation.state"]
    )
    torch.testing.assert_close(policy.predict_action_chunk(batch), torch.from_numpy(actions))


def test_padded_actions_do_not_count(policy, batch):
    with torch.no_grad():
        loss = policy(batch)[0]
        beyond = policy({**batch, "action": batch["action"] + 5 * batch["action_is_pad"][..., None]})[0]
        within = policy({**batch, "action": batch["action"] + 5 * ~batch["action_is_pad"][..., None]})[0]
    assert beyond == loss and within > loss


def test_a_chunk_is_carried_out_before_the_next(policy, batch, demonstrations):
    other = batch_of(demonstrations, 3, 4, 5, 6)
    first, second = policy.predict_action_chunk(batch), policy.predict_action_chunk(other)

    assert torch.equal(policy.select_action(batch), first[:, 0])
    assert torch.equal(policy.select_action(other), first[:, 1])
    assert torch.equal(policy.select_action(other), second[:, 0])
    policy.reset()
    assert torch.equal(policy.select_action(batch), first[:, 0])


def test_the_pipelines_scale_nothing(policy, batch, demonstrations):
    before, after = make_vega3d_pre_post_processors(policy.config, rows_of(demonstrations).meta.stats)
    shown = before(dict(batch))
    for key in ("observation.images.front", "observation.state", "action"):
        assert torch.equal(shown[key], batch[key])
    assert torch.equal(after(batch["action"][:, 0]), batch["action"][:, 0])


def test_what_is_pushed_is_loaded_again(checkpoint, policy, batch, tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(ModelCard, "validate", lambda card: None)  # asks huggingface.co, whatever the endpoint is
    with serving(tmp_path / "root") as address:
        talk_to(address, tmp_path / "home", monkeypatch)
        policy.config.repo_id = "org/mine"
        policy.push_model_to_hub(TrainPipelineConfig.from_pretrained(checkpoint))
        again = Vega3dPolicy.from_pretrained("org/mine")
    assert torch.equal(again.predict_action_chunk(batch), policy.predict_action_chunk(batch))


# --- What is refused


def fresh(demonstrations: Path, stats=None, **options) -> Vega3dPolicy:
    config = Vega3dConfig(base_model=str(BASE), device="cpu", chunk_size=CHUNK, n_action_steps=1, **options)
    meta = rows_of(demonstrations).meta
    features = dataset_to_policy_features(meta.features)
    config.output_features = {"action": features.pop("action")}
    config.input_features = features
    return Vega3dPolicy(config, dataset_stats=meta.stats if stats is None else stats(meta.stats), dataset_meta=meta)


def without_quantiles(stats: dict) -> dict:
    return {key: {name: value for name, value in one.items() if name != "q99"} for key, one in stats.items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cameras": {"front": "observation.images.back"}}, "image features are"),
        ({"stats": without_quantiles}, "have no q99"),
    ],
)
def test_new_policies_that_cannot_be(options, said, demonstrations):
    with pytest.raises(ValueError, match=said):
        fresh(demonstrations, **options)


def test_a_policy_of_another_chunk(checkpoint):
    config = Vega3dConfig.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="chunk_size were 3 and are 2"):
        Vega3dPolicy(replace(config, base_model=str(checkpoint / CHECKPOINT), chunk_size=2))


def test_a_new_policy_needs_statistics(checkpoint):
    config = Vega3dConfig.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="there is no data"):
        Vega3dPolicy(replace(config, base_model=str(BASE)))


def test_data_beyond_the_statistics(checkpoint, demonstrations):
    stats = rows_of(demonstrations).meta.stats
    Vega3dPolicy.from_pretrained(checkpoint, dataset_stats=stats)
    wild = {**stats, "action": {name: np.asarray(value) * 50 for name, value in stats["action"].items()}}
    with pytest.raises(ValueError, match=r"'local/toy', and the data lies beyond them: action\[0\]"):
        Vega3dPolicy.from_pretrained(checkpoint, dataset_stats=wild)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalization_mapping": {"ACTION": NormalizationMode.MEAN_STD}}, "scales"),
        ({"n_obs_steps": 2}, "n_obs_steps is 2"),
        ({"normalisation": "none"}, "normalisation is 'none'"),
        ({"learning_rates": {"llm": 1e-5}}, "names 'llm'"),
    ],
)
def test_settings_that_cannot_be(options, said):
    with pytest.raises(DecodingError, match=said):
        Vega3dConfig(device="cpu", **options)


@pytest.mark.parametrize("images", [torch.full((1, 3, 4, 4), 1.5), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)])
def test_images_of_another_range(images):
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        as_bytes(images, "observation.images.front")


def test_batches_without_a_camera_or_a_task(policy, batch):
    for key in ("task", "observation.images.front"):
        with pytest.raises(ValueError, match=key):
            policy.predict_action_chunk({name: value for name, value in batch.items() if name != key})


def test_adapters_of_lerobot_are_refused(policy):
    with pytest.raises(ValueError, match="--peft"):
        policy.wrap_with_peft()
