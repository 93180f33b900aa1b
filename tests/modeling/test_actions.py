"""`VegaForActionPrediction`: what reaches an action, units, padding, a shut gate, loading, refusals."""

import copy
import logging

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from fitting import fit
from remote_process import run_without_package
from tiny_policies import ACTION, CAMERAS, CHUNK, STATES, TASKS, build_policy, pictures, save_backbones, statistics
from vega3d import VegaForActionPrediction, VegaForSpatialReasoning
from vega3d.inference.compiling import compile_layers
from vega3d.modeling import actions_vega3d
from vega3d.modeling.actions_vega3d import action_inputs


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vlm_type):
    return save_backbones(tmp_path_factory.mktemp("backbones"), vlm_type)


@pytest.fixture(scope="module")
def build(folders, vlm_type):
    def make(seed: int = 0, **options) -> tuple[VegaForActionPrediction, object]:
        return build_policy(folders, vlm_type, seed, **options)

    return make


@pytest.fixture(scope="module")
def policy(build):
    """Tests that change it make their own."""
    return build()


def batch(policy, frames: int | None = None, tasks=TASKS) -> dict:
    model, processor = policy
    seen = [pictures(number, frames) for number in range(len(tasks))]
    return action_inputs(processor, model.config, seen, tasks) | {"state": torch.from_numpy(STATES[: len(tasks)])}


def test_a_task_of_several_rows_is_written_once(policy, monkeypatch):
    model, processor = policy
    seen = [pictures(number) for number in range(4)]
    tasks = [TASKS[0], TASKS[1], TASKS[0], TASKS[0]]
    alone = [
        action_inputs(processor, model.config, [one], [task])["input_ids"]
        for one, task in zip(seen, tasks, strict=True)
    ]
    asked = []
    usual = actions_vega3d.prompt_text
    monkeypatch.setattr(actions_vega3d, "prompt_text", lambda *given: asked.append(given) or usual(*given))
    together = action_inputs(processor, model.config, seen, tasks)
    assert len(asked) == 2
    for row, mask, ids in zip(together["input_ids"], together["attention_mask"], alone, strict=True):
        assert row[mask.bool()].tolist() == ids[0].tolist()


def test_layers_are_compiled_in_place(build, policy, monkeypatch):
    model, processor = build()
    given, graphs = batch((model, processor)), []
    names, expected = list(model.state_dict()), policy[0](**given).actions

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    layers = compile_layers(model, backend=backend)

    core = model.vlm_core
    assert len(layers) == len(core.visual.blocks) + len(core.language_model.layers)
    assert torch.equal(model(**given).actions, expected) and graphs
    compiled = len(graphs)
    assert torch.equal(model(**given).actions, expected) and len(graphs) == compiled
    assert list(model.state_dict()) == names


def test_a_model_that_generates_words_is_not_compiled(policy):
    words = VegaForSpatialReasoning(policy[0].config)
    with pytest.raises(ValueError, match="VegaForSpatialReasoning is no policy"):
        compile_layers(words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "reduce-overhead"}, "mode is 'reduce-overhead', which makes a CUDA graph of each layer"),
        ({"mode": "max-autotune"}, "mode is 'max-autotune', which"),
        ({"options": {"triton.cudagraphs": True}}, "options has 'triton.cudagraphs', which"),
    ],
)
def test_layers_are_no_graphs_one_by_one(policy, options, message):
    model = policy[0]
    with pytest.raises(ValueError, match=f"{message}.*graph_queries"):
        compile_layers(model, **options)
    assert "forward" not in vars(model.vlm_core.visual.blocks[0])


def test_layers_of_queries_that_are_graphs_are_not_compiled(build):
    model, _ = build()
    model.forward = lambda **inputs: None  # where `graph_queries` puts its own
    with pytest.raises(ValueError, match=r"Compile first, and call `graph_queries` after it"):
        compile_layers(model)


# --- What reaches an action --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vlm_type", "frames"), [("qwen2_5_vl", 3), ("qwen3_vl", 1)], indirect=["vlm_type"])
def test_images_words_and_state_reach_every_action(build, frames):
    policy = build(action_frames=frames, action_fps=5.0)
    model, processor = policy
    shown = None if frames == 1 else frames

    def ask(images, task=TASKS[0], state=STATES[0]):
        return model.predict_actions(processor, images, task, state)

    usual = ask(pictures(0, shown))
    assert usual.shape == (CHUNK, ACTION) and usual.dtype == np.float32
    other_wrist = {**pictures(0, shown), "wrist": pictures(1, shown)["wrist"]}
    swapped = dict(zip(CAMERAS, reversed(list(pictures(0, shown).values())), strict=True))
    for changed in (
        ask(other_wrist),
        ask(swapped),
        ask(pictures(0, shown), "close"),
        ask(pictures(0, shown), state=STATES[1]),
    ):
        assert (np.abs(changed - usual) > 1e-6).any(1).all()
    np.testing.assert_array_equal(ask(dict(reversed(pictures(0, shown).items()))), usual)  # cameras go by name


def test_rows_of_a_batch_do_not_disturb_each_other(policy):
    model, processor = policy
    seen = [pictures(number) for number in range(2)]
    together = model.predict_actions(processor, seen, TASKS, STATES)
    for number in range(2):
        alone = model.predict_actions(processor, seen[number], TASKS[number], STATES[number])
        np.testing.assert_allclose(together[number], alone, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_actions_see_each_other_and_nothing_before_sees_them(build, attention):
    model, processor = build()
    model.set_attn_implementation(attention)
    inputs = batch((model, processor), tasks=TASKS[:1])
    with torch.no_grad():
        usual = model(**inputs).actions
        model.action_head.queries.weight[-1] += 1
        changed = model(**inputs).actions
        assert (usual - changed).abs().amax(-1).min() > 1e-6  # the last placeholder reaches the first action
        places = inputs["input_ids"] == model.config.action_token_id
        hidden = [self_hidden(model, inputs, scale) for scale in (0.0, 1.0)]
    torch.testing.assert_close(hidden[0][~places], hidden[1][~places], atol=1e-6, rtol=0)


def self_hidden(model, inputs, change: float) -> torch.Tensor:
    """Hidden states float[B, L, D] of the language model with all queries moved."""
    found = []
    hook = model.model.register_forward_hook(lambda module, arguments, output: found.append(output.last_hidden_state))
    with torch.no_grad():
        model.action_head.queries.weight += change
        model(**inputs)
        model.action_head.queries.weight -= change
    hook.remove()
    return found[0]


def test_both_attentions_give_the_same(build):
    model, processor = build()
    inputs = batch((model, processor))
    with torch.no_grad():
        usual = model(**inputs).actions
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(**inputs).actions, usual, atol=1e-4, rtol=0)
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="Load the model with 'sdpa'"):
        model(**inputs)


def test_a_shut_gate_leaves_the_policy_of_the_vlm_bit_by_bit(build):
    shut, processor = build(fusion_residual_init=0.0)
    plain, _ = build(fusion="none")
    open_gate, _ = build(fusion_residual_init=0.5)
    inputs = batch((shut, processor))
    with torch.no_grad():
        ours, theirs, fused = (one(**inputs).actions for one in (shut, plain, open_gate))

    assert torch.equal(ours, theirs)
    assert not torch.equal(fused, theirs)


def test_features_that_are_stored_give_the_same_actions(policy):
    inputs = batch(policy)
    model = policy[0]
    hidden = model.generator_features(**inputs)
    stored = {name: value for name, value in inputs.items() if not name.startswith("generator_pixel")}
    with torch.no_grad():
        expected = model(**inputs).actions
        torch.testing.assert_close(model(**stored, generator_hidden_states=hidden).actions, expected)


# --- Units and padding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "centre", "scale"),
    [("quantiles", [0, 20], [1, 10]), ("min_max", [0, 20], [1, 10]), ("mean_std", [0, 20], [0.5, 5])],
)
def test_actions_have_the_units_of_the_data_set(build, kind, centre, scale):
    model, processor = build(action_normalisation=kind)
    with torch.no_grad():
        for parameter in model.action_head.layers[-1].parameters():
            parameter.zero_()
        np.testing.assert_allclose(ask_first(model, processor), np.tile(centre, (CHUNK, 1)))
        model.action_head.layers[-1].bias.fill_(1.0)
        np.testing.assert_allclose(ask_first(model, processor), np.tile(np.add(centre, scale), (CHUNK, 1)))


def ask_first(model, processor) -> np.ndarray:
    return model.predict_actions(processor, pictures(), TASKS[0], STATES[0])


def test_a_number_that_never_changes_is_not_scaled(build):
    model, processor = build()
    flat = statistics(low=(0.5, 10.0), high=(0.5, 30.0))
    model.config.action_statistics = flat
    labels = torch.tensor([[[0.5, 20.0]] * CHUNK] * 2)
    assert model(**batch((model, processor)), labels=labels).loss.isfinite()


def test_the_loss_is_the_mean_l1_of_normalised_actions_without_padding(policy):
    model = policy[0]
    inputs = batch(policy)
    labels = torch.rand(2, CHUNK, ACTION) * 2
    is_pad = torch.tensor([[False] * CHUNK, [False, False, True, True]])
    with torch.no_grad():
        output = model(**inputs, labels=labels, action_is_pad=is_pad)
        beyond = labels.clone()
        beyond[1, 2:] = 1e3
        other = model(**inputs, labels=beyond, action_is_pad=is_pad)

    errors = (output.actions - labels).abs() / torch.tensor([1.0, 10.0])
    torch.testing.assert_close(output.loss, torch.cat([errors[0], errors[1, :2]]).mean())
    assert torch.equal(other.loss, output.loss)


def test_it_learns_two_chunks(build):
    model, processor = build()
    inputs = batch((model, processor))
    labels = torch.stack([torch.zeros(CHUNK, ACTION), torch.ones(CHUNK, ACTION) * torch.tensor([0.5, 25.0])])
    model.requires_grad_(False)
    model.action_head.requires_grad_(True)
    before = model(**inputs, labels=labels).loss.item()
    after = fit(model.action_head.parameters(), lambda: model(**inputs, labels=labels).loss, 10, 2e-2)
    assert after < 0.5 * before
    assert all(parameter.grad is not None for parameter in model.action_head.parameters())


# --- Loading -----------------------------------------------------------------------------------------------------


def test_it_is_loaded_as_it_was_saved_and_answers_too(policy, tmp_path):
    model, _ = policy
    inputs = batch(policy)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)

    assert type(loaded) is VegaForActionPrediction
    assert loaded.config.action_statistics == statistics()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).actions, model(**inputs).actions)
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is VegaForSpatialReasoning


def test_its_code_goes_with_it(policy, tmp_path):
    model, processor = policy
    inputs = batch(policy)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.save({"inputs": inputs, "actions": model(**inputs).actions}, tmp_path / "expected.pt")
    code = """
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1] + "/model", trust_remote_code=True)
expected = torch.load(sys.argv[1] + "/expected.pt")
with torch.no_grad():
    torch.testing.assert_close(model(**expected["inputs"]).actions, expected["actions"])
print("same actions")
"""
    assert "same actions" in run_without_package(code, tmp_path, str(tmp_path))


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"front": pictures()["front"]}}, r"no image of \['wrist'\].*cameras \['front', 'wrist'\]"),
        ({"images": {**pictures(), "top": pictures()["front"]}}, r"images of \['top'\], which the model does not"),
        ({"images": pictures(frames=2)}, r"image of front is uint8\[2, 32, 48, 3\], but must be uint8\[H, W, 3\]"),
        ({"images": {name: value / 255 for name, value in pictures().items()}}, "is float64"),
        ({"state": STATES[0][:2]}, r"state is \[1, 2\], but must be float\[1, 3\], as in toys"),
        ({"state": [0, np.nan, 0]}, r"state\[0, 1\] is nan"),
        ({"instruction": " "}, "instruction is ' ', but must be what the robot is told"),
        ({"instruction": "a <action>"}, "special token <action>"),
        ({"instruction": TASKS}, "1 robots, 2 instructions"),
    ],
)
def test_what_cannot_be_asked(policy, change, message):
    model, processor = policy
    asked = {"images": pictures(), "instruction": TASKS[0], "state": STATES[0]} | change
    with pytest.raises(ValueError, match=message):
        model.predict_actions(processor, **asked)


def test_batches_that_are_refused(policy):
    model = policy[0]
    inputs = batch(policy)
    labels = torch.zeros(2, CHUNK, ACTION)
    short = {**inputs, "input_ids": inputs["input_ids"].clone()}
    short["input_ids"][1, -1] = short["input_ids"][1, 0]
    with pytest.raises(ValueError, match="There is no state"):
        model(**{**inputs, "state": None})
    with pytest.raises(ValueError, match=r"labels is \[2, 3, 2\], but must be float\[2, 4, 2\]"):
        model(**inputs, labels=labels[:, :3])
    with pytest.raises(ValueError, match="leave an action of each row"):
        model(**inputs, labels=labels, action_is_pad=torch.ones(2, CHUNK, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"Prompt 1 has 3 tokens <action>, but must have 4"):
        model(**short)
    model.config.action_cameras = ["front"]
    try:
        with pytest.raises(ValueError, match="4 visuals for 2 prompts"):
            model(**inputs)
    finally:
        model.config.action_cameras = CAMERAS


def test_a_state_that_was_never_seen_is_noted_once(build, caplog):
    model, processor = build()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model.predict_actions(processor, pictures(), TASKS[0], [0.0, 3.5, 0.0])
    assert [record.message for record in caplog.records if "never" in record.message or "seen" in record.message] == [
        "state[1] is in [3.5, 3.5], the statistics in [-1, 1] of toys. The model has not seen such states."
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_chunk": 0}, "action_chunk"),
        ({"action_chunks": 3}, "action_chunks"),
        ({"action_frames": 0}, "action_frames"),
        ({"action_normalisation": "bounds"}, "action_normalisation"),
        ({"cameras": ["a", "a"]}, "action_cameras"),
        ({"statistics": {"state": {}}}, "action_statistics of state"),
        ({"statistics": copy.deepcopy(statistics()) | {"action": {"mean": [1]}}}, "action_statistics of action"),
    ],
)
def test_options_that_are_refused(build, options, message):
    model, processor = build()
    reasoning = VegaForSpatialReasoning(model.config)
    given = {"statistics": statistics(), "cameras": CAMERAS} | options
    with pytest.raises(ValueError, match=message):
        VegaForActionPrediction.from_reasoning(reasoning, processor.tokenizer, **given)


def test_a_checkpoint_that_is_no_policy(checkpoint):
    with pytest.raises(ValueError, match=r"no policy.*from_reasoning"):
        VegaForActionPrediction.from_pretrained(checkpoint)
