"""Queries as CUDA graphs: the pass equals the model's forward, and has nothing that waits for a GPU.

Whether it waits is found without a GPU, by one that is not there (`absent_gpu`). The graphs themselves need one.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from transformers import Qwen2_5_VLForConditionalGeneration

from absent_gpu import AbsentGPU, WaitError, on_gpu
from tiny_models import every_vlm
from tiny_policies import STATE, STATES, TASKS, build_policy, pictures, save_backbones
from vega3d import VegaForActionPrediction
from vega3d.inference.compiling import compile_layers
from vega3d.inference.graphs import (
    VALUES,
    Acted,
    QueryPlan,
    check_pass,
    checked_inputs,
    graph_queries,
    host_layout,
    identity,
)
from vega3d.modeling.actions_vega3d import action_inputs
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.generator_vega3d import NOT_FINITE, check_all

SAME_LENGTH = ["close the ball", "reach the drawer now"]  # as TASKS, in tokens
POLICIES = {
    "without a generator": {"fusion": "none"},
    **{fusion: {"fusion": fusion} for fusion in FUSIONS},
    "of videos": {"action_frames": 3, "action_fps": 5.0},
    "of clips": {"action_frames": 5, "action_fps": 5.0, "clip_mode": "clip"},
    "of shared noise": {"noise_shared": True, "noise_draws": 2},
    "eager": {"fusion": "token_gated"},
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vlm_type):
    return save_backbones(tmp_path_factory.mktemp("backbones"), vlm_type)


@pytest.fixture(scope="module")
def build(folders, vlm_type):
    def make(name: str = "token_gated_residual"):
        policy = build_policy(folders, vlm_type, **POLICIES[name])
        if name == "eager":
            policy[0].vlm_core.language_model.set_attn_implementation("eager")
        return policy

    return make


def batch(policy, tasks=TASKS, seed: int = 0, size=(32, 48)) -> dict:
    """Inputs of a query; images, states and words change with the seed."""
    model, processor = policy
    frames = None if model.config.action_frames == 1 else model.config.action_frames
    seen = [pictures(seed + number, frames, size) for number in range(len(tasks))]
    states = np.random.default_rng(seed).uniform(-1, 1, (len(tasks), STATE))
    return action_inputs(processor, model.config, seen, tasks) | {"state": torch.from_numpy(states).float()}


def plan_of(model, given, output_gates: bool = True) -> QueryPlan:
    return QueryPlan(model, host_layout(model, checked_inputs(given)), output_gates)


def values_of(given) -> dict[str, torch.Tensor]:
    return {name: given[name] for name in VALUES if name in given}


def key_of(model, given) -> dict:
    return {name: identity(value) for name, value in host_layout(model, checked_inputs(given)).items()}


@torch.no_grad()
def check_equal(acted: Acted, model, given) -> None:
    """The actions and gates of the model's own forward, bit for bit."""
    expected = VegaForActionPrediction.forward(model, **given, output_gates=True)
    assert torch.equal(acted.actions, expected.actions)
    assert (acted.gates is None) == (expected.gates is None)
    for name, maps in (expected.gates or {}).items():
        assert all(torch.equal(one, other) for one, other in zip(acted.gates[name], maps, strict=True))


# --- The pass ----------------------------------------------------------------------------------------------------


@every_vlm
@pytest.mark.parametrize("name", POLICIES)
@torch.no_grad()
def test_the_pass_of_a_plan_equals_the_forward_for_other_images_words_and_states(build, name):
    policy = build(name)
    model = policy[0]
    check_pass(model)
    first, other = batch(policy), batch(policy, SAME_LENGTH, seed=7)
    assert key_of(model, first) == key_of(model, other)
    plan = plan_of(model, first)

    acted = [plan.act(values_of(given)) for given in (first, other)]

    assert not torch.equal(*(one.actions for one in acted))
    for one, given in zip(acted, (first, other), strict=True):
        check_equal(one, model, given)


def test_another_layout_is_another_plan(build):
    policy = build()
    model = policy[0]
    keys = [
        key_of(model, given)
        for given in (
            batch(policy),
            batch(policy, TASKS[::-1]),  # padding of another row
            batch(policy, TASKS[:1]),
            batch(policy, ["reach the red ball", TASKS[1]]),
            batch(policy, size=(48, 32)),  # as many tokens of images
            batch(policy) | {"attention_mask": torch.ones_like(batch(policy)["attention_mask"])},
        )
    ]
    assert all(one != other for number, one in enumerate(keys) for other in keys[:number])
    assert keys[0] == key_of(model, batch(policy, seed=3))


@torch.no_grad()
def test_features_that_are_not_finite_are_told_apart_without_a_look(build):
    policy = build()
    model, given = policy[0], batch(policy)
    check_pass(model)
    plan = plan_of(model, given)
    assert plan.act(values_of(given)).finite.all()
    model.generator_module.tower.transformer.patch_embedding.weight.fill_(torch.nan)
    finite = plan.act(values_of(given)).finite
    with pytest.raises(ValueError, match=r"The generator's features of clip 0 \(of 4\) are not finite"):
        check_all(finite, *NOT_FINITE)


# --- Nothing waits -----------------------------------------------------------------------------------------------


@torch.no_grad()
def pass_on_absent_gpu(policy, given) -> Acted:
    """The pass on a GPU that is not there, after one in which copies to it are allowed."""
    pytest.importorskip("torch.nn.attention.varlen", reason="windows in 16 bits need a newer torch")
    model = policy[0]
    check_pass(model)
    on_gpu(model.to(torch.bfloat16))
    values = {name: on_gpu(value) for name, value in values_of(given).items()}
    with AbsentGPU(may_copy=True):
        plan = plan_of(model, given)
        plan.act(values)
    with AbsentGPU(may_copy=False):
        return plan.act(values)


quiet = pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'", "ignore:CUDA is not available")


@quiet
@every_vlm
@pytest.mark.parametrize("name", POLICIES)
def test_the_captured_part_of_a_query_has_no_operation_that_waits_for_the_host(build, name):
    policy = build(name)
    acted = pass_on_absent_gpu(policy, batch(policy))
    assert acted.actions.is_cuda and acted.actions.dtype == torch.float32


def function_of_torch(states: torch.Tensor) -> torch.Tensor:
    """One whose inside is not shown to a `TorchFunctionMode`, as of those of `torch.nn.functional`."""
    if torch.overrides.has_torch_function((states,)):
        return torch.overrides.handle_torch_function(function_of_torch, (states,), states)
    return states + torch.ones(1, 1).to(states.device)


@quiet
def test_images_of_two_sizes_do_not_wait_either(build):
    policy = build()
    model, processor = policy
    seen = [pictures(0) | {"wrist": pictures(1, size=(48, 32))["wrist"]}]
    given = action_inputs(processor, model.config, seen, TASKS[:1]) | {"state": torch.from_numpy(STATES[:1])}
    check_pass(model)
    with torch.no_grad():
        check_equal(plan_of(model, given).act(values_of(given)), model, given)
    assert pass_on_absent_gpu(policy, given).actions.is_cuda


WAITS = {
    "item": lambda states: states.sum().item(),
    "tolist": lambda states: states.tolist(),
    "if": lambda states: bool((states > 0).any()),
    "nonzero": lambda states: states.nonzero(),
    "mask": lambda states: states[states > 0],
    "repeat_interleave": lambda states: states[0].repeat_interleave(torch.ones_like(states[0], dtype=torch.long)),
    "unique": lambda states: states.unique(),
    "cpu": lambda states: states.cpu(),
    "numbers": lambda states: torch.tensor([1.0, 2.0], device=states.device),
    "new_tensor": lambda states: states.new_tensor([1.0, 2.0]),
    "to": lambda states: torch.ones(3).to(states.device),
    "to another": lambda states: torch.ones(3).to(states),
    "copy_": lambda states: states.new_empty(3).copy_(torch.ones(3)),
    "index": lambda states: states[torch.tensor([0])],
    "write": lambda states: states.clone().index_fill_(0, torch.tensor([0]), 2.0),
    "in a function of torch": function_of_torch,
}


@quiet
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_what_waits_is_found(build, wait):
    policy = build()
    calls = []

    def plant(module, inputs) -> None:
        calls.append(inputs)
        if len(calls) > 1:  # the pass after the one in which copies are allowed
            wait(inputs[0].flatten(0, -2))

    policy[0].action_head.register_forward_pre_hook(plant)
    with pytest.raises((WaitError, DataDependentOutputException, DynamicOutputShapeException)):
        pass_on_absent_gpu(policy, batch(policy))
    assert len(calls) == 2


@quiet
def test_the_forward_itself_waits(build):
    policy = build()
    model, given = policy[0], batch(policy)
    on_gpu(model.to(torch.bfloat16))
    near = {name: on_gpu(value) if torch.is_tensor(value) else value for name, value in given.items()}
    with pytest.raises((WaitError, DataDependentOutputException)), AbsentGPU(may_copy=False), torch.no_grad():
        model(**near)


# --- What is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.train(), "in training mode"),
        (lambda model: setattr(model.config, "coord_token_id", 5), "coord_token_id=5"),
        (lambda model: setattr(model.generator_module, "is_offloaded", True), "Weights of the generator may lie"),
        (lambda model: setattr(model.vlm_core.visual.config, "_attn_implementation", "eager"), "is 'eager', which"),
    ],
    ids=["training", "points", "offloaded", "attention"],
)
def test_a_policy_whose_query_is_no_pass_is_refused(build, change, message):
    model, _ = build()
    change(model)
    with pytest.raises(ValueError, match=message):
        check_pass(model)


def test_another_vlm_is_refused(build):
    class Qwen5VL(Qwen2_5_VLForConditionalGeneration):
        pass

    model, _ = build()
    model.model.vlm.__class__ = Qwen5VL
    with pytest.raises(ValueError, match="The policy's VLM is Qwen5VL, of which a query is no pass"):
        check_pass(model)


def test_a_policy_that_is_on_no_gpu_is_refused(build):
    model, _ = build()
    with pytest.raises(ValueError, match=r"The policy is on cpu, .* Move it by `policy.to\('cuda'\)`"):
        graph_queries(model)
    with pytest.raises(ValueError, match="VegaModel is no policy"):
        graph_queries(model.model)
    with pytest.raises(ValueError, match="most is 0"):
        graph_queries(model, most=0)
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(2, 4, 2)}, r"got \['labels'\], but reads"),
        ({"generator_pixel_values": torch.zeros(8, 768)}, "generator_pixel_values is torch.float32, whose range"),
        ({"pixel_values": [torch.zeros(2, 384)]}, "pixel_values is a list"),
    ],
    ids=["labels", "floats", "list"],
)
def test_inputs_that_no_graph_reads_are_refused(build, change, message):
    with pytest.raises(ValueError, match=message):
        checked_inputs(batch(build()) | change)


@quiet
def test_autocast_is_refused(build):
    given = batch(build())
    torch.set_autocast_enabled("cuda", True)  # the context would turn it off where there is no GPU
    try:
        with pytest.raises(ValueError, match="under autocast"):
            checked_inputs(given)
    finally:
        torch.set_autocast_enabled("cuda", False)


# --- Graphs ------------------------------------------------------------------------------------------------------


def near(given) -> dict:
    """Inputs on the GPU."""
    return {name: value.cuda() if torch.is_tensor(value) else value for name, value in given.items()}


@needs_gpu
@every_vlm
@pytest.mark.parametrize("name", POLICIES)
def test_graphs_equal_the_forward_bit_for_bit(build, name):
    policy = build(name)
    model = policy[0].to("cuda", torch.bfloat16)
    graphed = graph_queries(model, most=2)
    for seed in range(6):
        for tasks in (TASKS, TASKS[:1]) if seed % 2 else (SAME_LENGTH, SAME_LENGTH[:1]):
            given = near(batch(policy, tasks, seed))
            output = model(**given, output_gates=True)
            kept = Acted(output.actions.clone(), output.gates, None)
            check_equal(Acted(output.actions, output.gates, None), model, given)
            assert torch.equal(kept.actions, output.actions)
    assert len(graphed._graphs) == 2
    model(**near(batch(policy, TASKS[1:])), output_gates=True)  # a third takes the place of one
    assert len(graphed._graphs) == 2
    given = near(batch(policy, seed=9))
    output = model(**given, output_gates=True)
    check_equal(Acted(output.actions, output.gates, None), model, given)


@needs_gpu
def test_a_robot_is_answered_by_graphs(build):
    model, processor = build()
    model.to("cuda", torch.bfloat16)
    expected = model.predict_actions(processor, pictures(3), TASKS[0], STATES[0])
    graph_queries(model)
    with torch.inference_mode():
        found = model.predict_actions(processor, pictures(3), TASKS[0], STATES[0])
    again = model.predict_actions(processor, pictures(3), TASKS[0], STATES[0])
    assert np.array_equal(found, expected) and np.array_equal(again, expected)
    del model.forward
    assert np.array_equal(model.predict_actions(processor, pictures(3), TASKS[0], STATES[0]), expected)


@needs_gpu
def test_compiled_layers_are_captured(build):
    policy = build()
    model = policy[0].to("cuda", torch.bfloat16)
    compile_layers(model)
    graph_queries(model)
    for seed in range(3):
        given = near(batch(policy, seed=seed))
        output = model(**given)
        with torch.no_grad():
            assert torch.equal(output.actions, VegaForActionPrediction.forward(model, **given).actions)


@needs_gpu
def test_weights_may_change_but_not_move(build):
    policy = build()
    model, given = policy[0].to("cuda", torch.bfloat16), near(batch(policy))
    graph_queries(model)
    before = model(**given).actions
    with torch.no_grad():
        model.action_head.queries.weight.mul_(2)
    assert not torch.equal(model(**given).actions, before)
    model.float()
    with pytest.raises(ValueError, match="weights have moved"):
        model(**given)


@needs_gpu
def test_features_that_are_not_finite_are_an_error_of_a_graph(build):
    policy = build()
    model, given = policy[0].to("cuda", torch.bfloat16), near(batch(policy))
    graph_queries(model)
    model(**given)
    with torch.no_grad():
        model.generator_module.tower.transformer.patch_embedding.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"features of clip 0 \(of 4\) are not finite"):
        model(**given)


@needs_gpu
def test_an_operation_that_waits_is_named(build):
    policy = build()
    model = policy[0].to("cuda", torch.bfloat16)
    graph_queries(model)
    model.action_head.register_forward_pre_hook(lambda module, inputs: inputs[0].sum().item() and None)
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        model(**near(batch(policy)))
