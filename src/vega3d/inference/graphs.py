"""A policy's query as one CUDA graph, for a robot that asks again and again with inputs of the same shapes.

A query is thousands of short kernels, which a CPU launches more slowly than a GPU computes them. A graph launches them
all at once. It can hold nothing that waits for the GPU or depends on values, so a query has two parts:

- the plan (`QueryPlan`): what follows from the layout of the prompt and the grids of the images. It is made on the CPU
  once for each layout, and lies on the GPU from then on;
- the pass (`QueryPlan.act`): from pixels, token ids and states to actions, on the GPU alone. It is captured.
"""

import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration
from transformers.utils import ModelOutput
from transformers.utils.generic import get_max_seqlen
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from vega3d.inference.vision_attention import pack_vision_attention
from vega3d.modeling.action_head_vega3d import chunk_mask, scale_of
from vega3d.modeling.actions_vega3d import VegaActionOutput, VegaForActionPrediction
from vega3d.modeling.generator_vega3d import NOT_FINITE, check_all, tensors_of
from vega3d.modeling.inputs_vega3d import (
    IGNORED,
    PATCH_GRIDS,
    TOKEN_TYPES,
    mean_embedding,
    text_weights,
    token_id,
)
from vega3d.modeling.modeling_vega3d import Gates
from vega3d.modeling.turns_vega3d import NewTokens

SUFFIXES = ("", "_videos")
PIXELS = tuple(f"{stream}pixel_values{suffix}" for stream in ("", "generator_") for suffix in SUFFIXES)
GRIDS = (*PATCH_GRIDS, *(f"generator_{name}" for name in PATCH_GRIDS))
VALUES = ("input_ids", "state", *PIXELS)  # that a graph reads anew at each query
LAYOUT = ("attention_mask", *GRIDS, "second_per_grid_ts")  # that decides what is computed
UNREAD = ("mm_token_type_ids",)  # the ids say it
WARM_UP = 3  # passes before one is captured, in which libraries choose kernels and compiled layers compile
WORD = -1  # stands in a layout for every token that is a word, and not one of the special ones


class Acted(NamedTuple):
    """What a pass gives: actions float32[B, K, A], gates as in `VegaEncoderOutput`, and bool[n], as `all_finite`."""

    actions: torch.Tensor
    gates: Gates | None
    finite: torch.Tensor | None


class QueryPlan:
    """What of a query follows from its layout: made once for each, on the CPU, with what the pass needs on the device.

    Args:
        policy: as `check_pass` checks it.
        layout: on the CPU, `input_ids` int[B, L] in which words are `WORD`, and what `LAYOUT` names of the inputs.
        output_gates: whether the pass gives the gates, too.

    Raises:
        ValueError: for prompts and grids that are none of this policy.
    """

    def __init__(self, policy: VegaForActionPrediction, layout: Mapping[str, Any], output_gates: bool = False):
        self.policy, self.output_gates = policy, output_gates
        config, device = policy.config, policy.device
        self.ids = layout["input_ids"]
        self.grids = {name: layout[name] for name in GRIDS if layout.get(name) is not None}
        mask = layout.get("attention_mask")
        is_action = policy._checked_prompts(self.ids, layout)
        self.actions = places_of(self.ids, config.action_token_id).to(device)  # int[B * K]
        seen = chunk_mask(torch.ones_like(self.ids) if mask is None else mask, is_action)
        self.language_mask = policy._language_mask(seen).to(device)
        self.positions = self._positions(mask, layout.get("second_per_grid_ts"))  # int[3, B, L]
        self.vision: dict[str, Any] = {}
        self.places: dict[str, torch.Tensor] = {}  # int[N], of the visual tokens among all
        for name in TOKEN_TYPES:
            if f"{name}_grid_thw" in self.grids:
                self.vision.update(vision_plan(policy, name, self.grids[f"{name}_grid_thw"]))
                self.places[name] = places_of(self.ids, token_id(name, config)).to(device)
        self.scales = [scale_of(config, name, device) for name in ("state", "action")]
        self.weights: torch.Tensor | None = None
        if config.fusion == "instruction_gated":
            is_placeholder = is_action | torch.eq(self.ids, config.state_token_id)  # type: ignore[arg-type]
            labels = torch.where(is_placeholder, self.ids, IGNORED)  # no part of the instruction
            self.weights = text_weights(self.ids, mask, labels, config).to(device)

    def _positions(self, mask: torch.Tensor | None, seconds: Any) -> torch.Tensor | None:
        given = {**{name: self.grids.get(name) for name in PATCH_GRIDS}, "second_per_grid_ts": seconds}
        tokens = NewTokens(self.policy.vlm_core, None, self.ids.shape, mask, self.ids.device)
        positions = tokens.positions(self.ids, self.policy.config, given, None)
        return None if positions is None else positions.to(self.policy.device)

    def act(self, values: Mapping[str, torch.Tensor]) -> Acted:
        """The pass, which waits for nothing: `VegaForActionPrediction.forward` with what the plan knows already.

        `values` are what `VALUES` names of the inputs, on the device of the policy.
        """
        policy, model, ids = self.policy, self.policy.model, values["input_ids"]
        (state_centre, state_scale), (centre, scale) = self.scales
        # 1. Text, with the tokens of the state and of the actions: float[B, L, D]
        own = policy.own_tokens((values["state"] - state_centre) / state_scale)
        embeds: Any = model.placed_text(ids, None, None, own)["inputs_embeds"]
        # 2. Both streams of the images, aligned and fused; ids and grids are on the CPU, where reading them is free
        instruction = None
        if self.weights is not None:
            instruction = mean_embedding(self.weights, model.get_input_embeddings()(ids))
        finite: list[torch.Tensor] = []
        encoded = model.encode(
            self.ids,
            output_gates=self.output_gates,
            vision_options=self.vision,
            instruction=instruction,
            finite=finite,
            **self.grids,  # type: ignore[arg-type]
            **{name: values[name] for name in PIXELS if name in values},  # type: ignore[arg-type]
        )
        outputs = encoded.mm_encoder_outputs
        for name, output in outputs.items():
            embeds = written(embeds, self.places[name], torch.cat(output.pooler_output))
        # 3. Language model: float[B, L, D]
        with deep_features(policy.vlm_core.language_model.layers, outputs, self.places):
            hidden = policy.vlm_core(
                inputs_embeds=embeds, position_ids=self.positions, attention_mask=self.language_mask, use_cache=False
            ).last_hidden_state
        # 4. Actions: float32[B, K, A]
        predicted = policy.normalised_actions(hidden.flatten(0, 1).index_select(0, self.actions))
        return Acted(predicted * scale + centre, encoded.gates, finite[0] if finite else None)


def places_of(ids: torch.Tensor, token: int | None) -> torch.Tensor:
    """int[n], where a token stands in int[B, L], counted row after row."""
    return torch.eq(ids, token).flatten().nonzero()[:, 0]  # type: ignore[arg-type]


def written(hidden: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """float[B, L, D] with float[n, D] at the places int[n]."""
    return hidden.flatten(0, 1).index_copy(0, places, tokens.to(hidden)).view_as(hidden)


@contextmanager
def deep_features(
    layers: nn.ModuleList, outputs: Mapping[str, ModelOutput], places: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Adds the vision tower's `deepstack_features`, where a VLM has them, to what the first layers give.

    Its own language model does so by a mask, for which it would wait for the GPU.
    """

    def add(number: int, layer: nn.Module, inputs: tuple, hidden: torch.Tensor) -> torch.Tensor:
        for name, output in outputs.items():
            deep = torch.cat(output.deepstack_features[number]).to(hidden)
            hidden = written(hidden, places[name], hidden.flatten(0, 1).index_select(0, places[name]) + deep)
        return hidden

    counts = [len(output.deepstack_features) for output in outputs.values() if "deepstack_features" in output]
    hooks = [
        layer.register_forward_hook(functools.partial(add, number))
        for number, layer in enumerate(layers[: max(counts, default=0)])
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def vision_plan(policy: VegaForActionPrediction, name: str, grid: torch.Tensor) -> dict[str, Any]:
    """What the vision tower counts of the grids int[n, 3] of images or videos (`name`), as transformers takes it.

    Raises ValueError on a GPU in float32, where windows of several lengths have to be read one by one.
    """
    vision: Any = policy.vlm_core.visual
    starts, longest = get_vision_attention_seqlens(grid, vision.config)
    found = {
        "position_ids": get_vision_position_ids(grid, vision.config.spatial_merge_size),
        "cu_seqlens": starts,
        "max_seqlen": longest,
        **VISION_PLANS[type(policy.model.vlm)](vision, grid),
    }
    lengths = [sorted(set(found[key].diff().tolist())) for key in ("cu_seqlens", "cu_window_seqlens") if key in found]
    if max(map(len, lengths)) > 1 and vision.dtype == torch.float32 and policy.device.type == "cuda":
        raise ValueError(
            f"The {name}s {grid.tolist()} have frames and windows of {lengths} patches, whose lengths the vision "
            "tower reads in float32. Load the policy in bfloat16, or show images of one size that windows divide."
        )
    return {
        f"{name}_{key}": value.to(policy.device) if isinstance(value, torch.Tensor) else value
        for key, value in found.items()
    }


def window_plan(vision: Any, grid: torch.Tensor) -> dict[str, Any]:
    """The order of patches in windows, and where each window begins."""
    sizes = vision.spatial_merge_size, vision.window_size, vision.patch_size
    index, starts = get_vision_window_index(grid, *sizes)
    longest = get_max_seqlen(starts, vision.config)
    return {"window_index": index, "cu_window_seqlens": starts, "max_window_seqlen": longest}


def resampling_plan(vision: Any, grid: torch.Tensor) -> dict[str, Any]:
    """Which of the learned positions are the neighbours of each patch, and their weights."""
    places, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=vision.num_grid_per_side,
        mode=vision.interpolation_mode,
        align_corners=vision.interpolation_align_corners,
        spatial_merge_size=vision.config.spatial_merge_size,
    )
    return {"interp_indices": places, "interp_weights": weights}


VISION_PLANS = {
    Qwen2_5_VLForConditionalGeneration: window_plan,
    Qwen3VLForConditionalGeneration: resampling_plan,
}


def host_layout(policy: VegaForActionPrediction, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of inputs on the CPU, as `QueryPlan` takes it: what two queries of one graph have in common."""
    config = policy.config
    vlm: Any = config.vlm_config
    special = [vlm.vision_start_token_id, vlm.vision_end_token_id, config.image_token_id, config.video_token_id]
    special += [config.state_token_id, config.action_token_id]
    ids = inputs["input_ids"].cpu()
    layout = {name: inputs[name] for name in LAYOUT if inputs.get(name) is not None}
    layout = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in layout.items()}
    return {"input_ids": torch.where(torch.isin(ids, torch.tensor(special)), ids, WORD), **layout}


def identity(value: Any) -> tuple:
    """What is equal for values of a layout that are equal."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    return (repr(value),)


class Graph(NamedTuple):
    """A captured pass, with the tensors that it reads anew, that it writes, and that must stay where they are."""

    graph: torch.cuda.CUDAGraph
    values: dict[str, torch.Tensor]
    acted: Acted
    held: list[Any]


class GraphedQueries:
    """Queries of a policy, each a launch of the CUDA graph of its layout; called as the policy is.

    A query of another layout (length of the prompt, place of its images and its padding, sizes of images, batch) is
    captured when it is first asked. Graphs share the memory that they compute in.

    Args:
        policy: as `graph_queries` checks it.
        most: graphs that are kept; that of the layout that was asked for longest ago makes room.
    """

    def __init__(self, policy: VegaForActionPrediction, most: int):
        self.policy, self.most = policy, most
        self._graphs: OrderedDict[tuple, Graph] = OrderedDict()
        self._weights = tensors_of(policy)
        self._addresses = self._places()
        self._stream = torch.cuda.Stream(policy.device)
        self._lock = threading.Lock()  # queries share the places of their inputs

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self._weights]

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        output_gates: bool = False,
        **visual,
    ) -> VegaActionOutput:
        """The actions of a query, and gates if wanted, as `VegaForActionPrediction.forward` gives them.

        Raises:
            ValueError: as it does, for inputs of a query that is trained on, or has a cache, features or positions,
                and for weights that have moved.
        """
        policy = self.policy
        state = policy._checked("state", state, (len(input_ids), policy.config.state_size))
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "state": state, **visual}
        inputs = checked_inputs(given)
        if self._places() != self._addresses:
            raise ValueError(
                "The policy's weights have moved since `graph_queries`, which graphs do not follow. Call it again "
                "after the last `to` or other change; writing into the weights is allowed."
            )
        with self._lock, torch.inference_mode(False), torch.no_grad(), torch.cuda.device(policy.device):
            graph = self._graph(inputs, output_gates)
            for name, place in graph.values.items():
                place.copy_(inputs[name])
            graph.graph.replay()
            acted = copied(graph.acted)
        if acted.finite is not None:
            check_all(acted.finite, *NOT_FINITE)
        return VegaActionOutput(actions=acted.actions, gates=acted.gates)

    def _graph(self, inputs: Mapping[str, Any], output_gates: bool) -> Graph:
        layout = host_layout(self.policy, inputs)
        values = {name: inputs[name] for name in VALUES if name in inputs}
        shapes = tuple((name, value.dtype, tuple(value.shape)) for name, value in values.items())
        key = (output_gates, shapes, tuple((name, identity(value)) for name, value in sorted(layout.items())))
        if key not in self._graphs:
            plan = QueryPlan(self.policy, layout, output_gates)
            self._graphs[key] = self._capture(plan, values)
            if len(self._graphs) > self.most:  # only now, as the new one shares the memory of the old ones
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, plan: QueryPlan, values: Mapping[str, torch.Tensor]) -> Graph:
        """Compiled layers compile in the passes before: `compile_layers` comes first, then these, then the capture."""
        device = self.policy.device
        places = {name: value.to(device, copy=True) for name, value in values.items()}
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                plan.act(places)
            with no_waits():  # names the operation that waits, where a capture would only fail
                plan.act(places)
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        pool = next((other.graph.pool() for other in self._graphs.values()), None)
        with torch.cuda.graph(graph, pool, stream=self._stream, capture_error_mode="thread_local"):
            acted = plan.act(places)
        return Graph(graph, places, acted, [plan, *self.policy.generator_module.derived])


def checked_inputs(given: Mapping[str, Any]) -> dict[str, Any]:
    """What of the inputs of a query there is; raises ValueError for what a graph cannot read."""
    inputs = {name: value for name, value in given.items() if value is not None and name not in UNREAD}
    if torch.is_autocast_enabled("cuda"):
        raise ValueError("A query as a CUDA graph was asked under autocast, which would be captured. Leave it out.")
    unknown = sorted(inputs.keys() - {*VALUES, *LAYOUT})
    if unknown:
        raise ValueError(
            f"A query as a CUDA graph got {unknown}, but reads {[*VALUES, *LAYOUT]} alone. Delete the policy's "
            "attribute `forward` to ask it without graphs."
        )
    for name in PIXELS:
        pixels = inputs.get(name)
        if pixels is not None and not isinstance(pixels, torch.Tensor):
            raise ValueError(
                f"{name} is a {type(pixels).__name__}, but must be one tensor, as VegaProcessor gives it."
            )
        if pixels is not None and name.startswith("generator_") and pixels.dtype != torch.uint8:
            raise ValueError(
                f"{name} is {pixels.dtype}, whose range would be looked at in each query. Give uint8, as "
                "VegaProcessor does."
            )
    return inputs


def copied(acted: Acted) -> Acted:
    """Copies that the next launch does not overwrite."""
    gates = acted.gates
    return Acted(
        acted.actions.clone(),
        None if gates is None else {name: tuple(gate.clone() for gate in maps) for name, maps in gates.items()},
        None if acted.finite is None else acted.finite.clone(),
    )


@contextmanager
def no_waits() -> Iterator[None]:
    """torch raises an error, with the line that is to blame, for what waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # that it does not find all
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def graph_queries(policy: VegaForActionPrediction, most: int = 4) -> GraphedQueries:
    """Makes each query of a policy on a GPU one launch of a CUDA graph, in place; its actions stay as they are.

    Call it last, after `to`, `eval` and `compile_layers`. The first query of each layout takes some passes and a
    capture. The vision tower's windows are packed (`pack_vision_attention`). `del policy.forward` undoes it.

    Args:
        policy: with all of its weights on one GPU.
        most: as in `GraphedQueries`.

    Raises:
        ValueError: for another model or place of the weights.
    """
    check_graphable(policy, most)
    graphed = GraphedQueries(policy, most)
    policy.forward = graphed  # type: ignore[method-assign, assignment]
    return graphed


def check_graphable(policy: VegaForActionPrediction, most: int) -> None:
    """Raises ValueError for what `graph_queries` does not take."""
    if not isinstance(policy, VegaForActionPrediction):
        raise ValueError(
            f"{type(policy).__name__} is no policy. Only queries of VegaForActionPrediction are one pass."
        )
    if most < 1:
        raise ValueError(f"most is {most}, but must be at least 1: the graph of the query that is asked.")
    devices = sorted({str(tensor.device) for tensor in tensors_of(policy)})
    if len(devices) != 1 or not devices[0].startswith("cuda"):
        raise ValueError(
            f"The policy is on {', '.join(devices)}, but CUDA graphs need all of it on one GPU. Move it by "
            "`policy.to('cuda')`, or leave `graph_queries` out."
        )
    check_pass(policy)


def check_pass(policy: VegaForActionPrediction) -> None:
    """Raises ValueError unless the pass of a policy is one that waits for nothing; packs its windows."""
    vlm, config = policy.model.vlm, policy.config
    if type(vlm) not in VISION_PLANS:
        known = ", ".join(one.__name__ for one in VISION_PLANS)
        raise ValueError(
            f"The policy's VLM is {type(vlm).__name__}, of which a query is no pass that waits for nothing. Take a "
            f"policy around one of {known}, or `compile_layers`."
        )
    if policy.training:
        raise ValueError(
            "The policy is in training mode, in which a query is not the same twice. Call `eval()` first."
        )
    hooked = [name for name, part in policy.named_modules() if "_hf_hook" in vars(part)]
    if policy.generator_module.is_offloaded or hooked:
        raise ValueError(
            f"Weights of {hooked[0] if hooked else 'the generator'} may lie in host memory or on another GPU. Load "
            "the policy without `offload` and `device_map`, and move it by `to`."
        )
    if config.coord_token_id is not None:
        raise ValueError(
            f"The config has coord_token_id={config.coord_token_id}, so that each query counts the points of its "
            "prompt. Set it to None: prompts of a policy have none."
        )
    if not pack_vision_attention(policy):
        kind = policy.vlm_core.visual.config._attn_implementation
        raise ValueError(
            f"The vision tower's attention is {kind!r}, which goes window by window. Load the policy with 'sdpa'."
        )
