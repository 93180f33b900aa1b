"""Policies trained on demonstrations: by `vega3d train`, by Trainer, further on other data; and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import command_line
from robotics.demonstration_data import CAMERAS, toy_episode, write_toy
from tiny_checkpoints import FROZEN
from vega3d import VegaForActionPrediction
from vega3d.features.cache import FeatureCache
from vega3d.hub.assemble import describe
from vega3d.hub.load import load_task, load_vega
from vega3d.inference.vision_attention import NAME
from vega3d.robotics import statistics
from vega3d.robotics.episode_writer import EpisodeWriter
from vega3d.training import ActionCollator, ActionOptions, DataSource, VegaTrainer, choose_parts, make_config
from vega3d.training.actions import PolicyData, policy_of

CHUNK = 3
CONFIG = {
    "model": str(FROZEN),
    "tune": ["gate", "projector", "llm-lora", "act"],
    "learning_rates": {"act": 1e-2},
    "lora_rank": 2,
    "steps": 3,
    "batch_size": 2,
    "save_steps": 2,
    "device": "cpu",
    "actions": {"chunk": CHUNK},
}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory) -> Path:
    return write_toy(tmp_path_factory.mktemp("data") / "toy", 2)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics.constants, "HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


def run(folder: Path, source: Path, **values) -> command_line.Done:
    """`vega3d train` with the config above, changed, into `folder / "out"`."""
    config = folder / "policy.json"
    config.write_text(json.dumps({**CONFIG, "data": str(source), "output": str(folder / "out"), **values}))
    return command_line.run("train", config, "--json")


@pytest.fixture(scope="module")
def trained(demonstrations, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = {"eval_data": str(demonstrations), "eval_steps": 3, "cache": str(folder / "cache")}
    done = run(folder, demonstrations, **options)
    assert done.exit_code == 0, done.stderr
    return folder / "out"


def asked(seed: int = 0) -> dict:
    toy = toy_episode(seed)
    images = {name: frames[0] for name, frames in toy["frames"].items()}
    return {"images": images, "instruction": toy["task"], "state": toy["states"][0]}


def test_a_run_leaves_a_policy_in_the_units_of_its_data(trained, demonstrations):
    model, processor = load_task(VegaForActionPrediction, trained, device="cpu")
    result = json.loads((trained / "training.json").read_text())

    actions = model.predict_actions(processor, **asked())

    assert actions.shape == (CHUNK, 2) and np.isfinite(actions).all()
    assert model.config.action_cameras == list(CAMERAS) and model.config.action_fps == 10
    assert model.config.action_statistics["dataset"] == "toy"
    assert set(result["trainable_parameters"]) == {"gate", "projector", "llm-lora", "act"}
    assert [entry["step"] for entry in result["log"] if "eval_loss" in entry] == [3]
    assert FeatureCache(trained.parent / "cache").stats()["entries"] > 0
    assert describe(trained)["parameters"]["action head"] > 0


def test_all_of_the_head_is_trained_beside_adapters(trained, demonstrations):
    options = ActionOptions(chunk=CHUNK)
    start, processor = load_vega(FROZEN, device="cpu")
    before = policy_of(start, processor.tokenizer, PolicyData(DataSource(str(demonstrations)), options), options, 0)
    after, _ = load_task(VegaForActionPrediction, trained, device="cpu")

    for (name, was), now in zip(before.action_head.named_parameters(), after.action_head.parameters(), strict=True):
        assert not torch.equal(was, now), name


def test_a_new_policy_and_a_loaded_one_attend_to_many_windows_at_once(trained, demonstrations):
    options = ActionOptions(chunk=CHUNK)
    start, processor = load_vega(FROZEN, device="cpu")
    new = policy_of(start, processor.tokenizer, PolicyData(DataSource(str(demonstrations)), options), options, 0)
    loaded, _ = load_task(VegaForActionPrediction, trained, device="cpu")

    for policy in (new, loaded):
        assert policy.vlm_core.visual.config._attn_implementation == NAME
        assert policy.config.vlm_config is policy.model.config.vlm_config


def test_a_policy_is_trained_further_and_keeps_its_statistics(trained, tmp_path):
    with EpisodeWriter(tmp_path / "calm", 10) as writer:
        toy = toy_episode(0)
        writer.write(toy["frames"], toy["states"], toy["actions"] / 2, toy["task"])
    before = load_task(VegaForActionPrediction, trained, device="cpu")[0].config.action_statistics

    done = run(tmp_path, tmp_path / "calm", model=str(trained), tune="act", steps=1)

    assert done.exit_code == 0, done.stderr
    after = load_task(VegaForActionPrediction, tmp_path / "out", device="cpu")[0].config.action_statistics
    assert after == before


def test_demonstrations_beyond_the_statistics_of_others_are_refused(trained, tmp_path):
    with EpisodeWriter(tmp_path / "wild", 10) as writer:
        toy = toy_episode(0)
        writer.write(toy["frames"], toy["states"], toy["actions"] * 50, toy["task"])
    model, processor = load_task(VegaForActionPrediction, trained, device="cpu")

    done = run(tmp_path, tmp_path / "wild", model=str(trained), tune="act", steps=1)
    assert done.exit_code == 2
    assert "statistics of 'toy'" in done.stderr and "action[0] is in [-4" in done.stderr

    options = ActionOptions(chunk=CHUNK, statistics="data")
    data = PolicyData(DataSource(str(tmp_path / "wild")), options)
    assert policy_of(model, processor.tokenizer, data, options, 0).config.action_statistics["dataset"] == "wild"


def test_the_plain_trainer_trains_it(demonstrations, tmp_path):
    model, processor = load_vega(FROZEN, device="cpu", dtype="float32")
    options = ActionOptions(chunk=CHUNK, frames=2)
    data = PolicyData(DataSource(str(demonstrations)), options)
    policy = policy_of(model, processor.tokenizer, data, options, 0)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    collator = ActionCollator(processor, config=policy.config)
    before = policy.action_head.queries.weight.clone()

    Trainer(policy, arguments, data_collator=collator, train_dataset=data).train()

    assert not torch.equal(policy.action_head.queries.weight, before)
    with pytest.raises(ValueError, match="labels of a policy are actions"):
        VegaTrainer(
            choose_parts(policy, ["act"]),
            TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, remove_unused_columns=False),
            data_collator=collator,
            train_dataset=data,
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tune": "gate,projector", "learning_rates": {}}, "its new head would not learn. Name 'act' in tune"),
        ({"actions": {"chunks": 3}}, "no setting 'actions.chunks'. Did you mean 'actions.chunk'"),
        ({"actions": {"chunk": 0}}, "actions.chunk is 0, but must be at least 1"),
        ({"actions": {"cameras": ["top"]}}, "no camera ['top']; it has ['front', 'wrist']"),
        ({"actions": {"skip_episodes": [0, 1]}}, "no episode to learn from"),
        ({"num_frames": 4}, "no effect with `actions`"),
        ({"data": ["a", "b"]}, "a policy learns from one"),
        ({"data": "."}, "holds no demonstrations"),
        ({"actions": None}, "is no folder of rooms"),
    ],
)
def test_runs_that_are_refused(demonstrations, tmp_path, values, message):
    done = run(tmp_path, demonstrations, **values)
    assert done.exit_code == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_policy_of_another_robot_is_refused(trained, tmp_path):
    write_toy(tmp_path / "other", 1, action_size=4)
    done = run(tmp_path, tmp_path / "other", model=str(trained), actions={"chunk": 2})
    assert done.exit_code == 2
    assert "chunk were 3 and are 2; numbers of an action were 2 and are 4" in done.stderr


def test_evaluation_on_another_robot_is_refused(demonstrations, tmp_path):
    write_toy(tmp_path / "other", 1, state_size=5)
    done = run(tmp_path, demonstrations, eval_data=str(tmp_path / "other"))
    assert done.exit_code == 2
    assert "have (5, 2) numbers" in done.stderr


def test_adapters_of_four_bits_are_merged_into_the_whole_weights(demonstrations, tmp_path):
    done = run(tmp_path, demonstrations, tune="llm-lora,act", learning_rates={"act": 1e-2}, four_bit=True, steps=2)
    assert done.exit_code == 0, done.stderr
    model, processor = load_task(VegaForActionPrediction, tmp_path / "out", device="cpu")
    assert not describe(tmp_path / "out")["quantised"]
    in_four_bits, _ = load_task(VegaForActionPrediction, tmp_path / "out", four_bit=True, device="cpu")
    kinds = {name: type(module).__name__ for name, module in in_four_bits.named_modules()}
    quantised = [name for name, kind in kinds.items() if kind == "Linear4bit"]
    assert quantised and all(".language_model." in name for name in quantised)
    assert np.isfinite(model.predict_actions(processor, **asked())).all()


def test_a_policy_does_not_lose_its_head_in_a_run_of_answers(trained, talk, tmp_path):
    done = run(tmp_path, talk, model=str(trained), tune="gate", learning_rates={}, actions=None, num_frames=2)
    assert done.exit_code == 2
    assert "is a policy, but the run trains answers in words" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, r"Row toy/0/0 cannot be trained on: There is no image of \['front', 'wrist'\]"),
        ({"task": ""}, "Row toy/0/0 cannot be trained on: The instruction is ''"),
        ({"actions": None}, "Row toy/0/0 has no actions"),
    ],
)
def test_rows_that_are_refused(trained, demonstrations, change, message):
    model, processor = load_task(VegaForActionPrediction, trained, device="cpu")
    row = PolicyData(DataSource(str(demonstrations)), ActionOptions(chunk=CHUNK))[0]
    with pytest.raises(ValueError, match=message):
        ActionCollator(processor, config=model.config)([{**row, **change}])


def test_runs_without_actions_are_known_by_the_same_settings():
    assert make_config({"model": "vega3d-tiny", "data": "rooms", "output": "out"}).binding()["actions"] is None


def test_where_images_are_held_is_no_setting_of_a_run():
    values = {"model": "vega3d-tiny", "data": "reach", "output": "out", "tune": ["act"]}
    plain, held = (make_config({**values, "actions": {"in_memory": kept}}).binding() for kept in (False, True))

    assert plain == held and "in_memory" not in plain["actions"] and plain["actions"]["chunk"] == 8
