"""Boxes that expressions mean, in packs: what `VegaForVisualGrounding` computes prompt by prompt, many at a time.

An expression is one more question of a pack (`packs.py`), whose last token is `<ground>`. Shapes are the same in all
steps, and nothing waits for the GPU, so that a step is one CUDA graph: boxes, true boxes and expressions are filled
up, and what follows from the data alone is computed before.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from research.tiny.study.data import SplitData, Words
from research.tiny.study.packs import NOTHING, Asked, Prefix
from research.tiny.study.recipe import GroundingRecipe
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.grounding_head_vega3d import box_loss, right_for_each
from vega3d.modeling.grounding_prompts_vega3d import COORD_TOKEN, GROUND_TOKEN, PROMPT
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.positions_vega3d import points_in_boxes, sinusoids, voxels
from vega3d.modeling.relation_head_vega3d import ANCHORS
from vega3d.rooms.questions.proposals import PROPOSALS

CHOSEN_STREAM = 2  # of the random numbers of a step; `PackMaker` has others


class Wanted(NamedTuple):
    """Expressions about G clips, E each, what they mean, and the boxes among which is chosen, M each.

    Of true boxes there are M too: an expression that means fewer has them again and again, which changes neither the
    nearest of them nor what lies in them.
    """

    places: torch.Tensor  # int64[G, E], of `<ground>` in the packs
    asked: torch.Tensor  # bool[G, E], False for what fills up
    has_target: torch.Tensor  # bool[G, E]
    targets: torch.Tensor  # float32[G, E, M, 6] [m]
    boxes: torch.Tensor  # float32[G, M, 6] [m]
    is_box: torch.Tensor  # bool[G, M], False for what fills up
    right: torch.Tensor  # bool[G, E, M], of `right_boxes`
    anchors: torch.Tensor  # bool[G, E, ANCHORS, M], those that are right for each anchor
    positions: torch.Tensor  # float32[G, N, 3], of visual tokens [m]
    token_voxels: torch.Tensor  # float32[G, N, 3], of the position code
    box_voxels: torch.Tensor  # float32[G, M, 3], of the centres of boxes


def add_ground_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Gives a tokenizer the tokens of grounding, as `VegaForVisualGrounding.from_reasoning`; the id of `<ground>`."""
    tokens = {"extra_special_tokens": [GROUND_TOKEN, COORD_TOKEN]}
    tokenizer.add_special_tokens(tokens, replace_extra_special_tokens=False)
    return int(tokenizer.convert_tokens_to_ids(GROUND_TOKEN))  # type: ignore[arg-type]  # of one token it is one


class Expressions:
    """The expressions about the clips of a split, for steps and for evaluation.

    Args:
        data: of the split.
        words: of the study, which need not know `<ground>`.
        prefix: of packs.
        recipe: how many are asked, and among how many boxes.
        ground: id of `<ground>`.

    Raises:
        ValueError: if a clip has more boxes than the recipe says.
    """

    def __init__(self, data: SplitData, words: Words, prefix: Prefix, recipe: GroundingRecipe, ground: int):
        self.data, self.recipe, self.start = data, recipe, len(prefix.ids)
        most = max(len(table["boxes"]) for tables in data.proposals for table in tables)
        if most > recipe.boxes:
            raise ValueError(f"grounding.boxes is {recipe.boxes}, but a clip has {most} boxes. Set it to {most}.")
        texts = [PROMPT.format(expression=row["expression"]) for rows in data.expressions for row in rows]
        ids = iter(words.prompts(texts))
        self.prompts = [[np.append(next(ids), ground) for _ in rows] for rows in data.expressions]
        self._known: dict[tuple[int, str], tuple[torch.Tensor, ...]] = {}
        self._meant: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def chosen(self, seed: int, step: int, clips: Sequence[int]) -> list[tuple[list[int], str]]:
        """Of the first clips of a step the numbers of their expressions that are asked, and the source of boxes."""
        random = np.random.default_rng([seed, CHOSEN_STREAM, step])
        sources = list(PROPOSALS)
        found = []
        for clip in clips[: self.recipe.clips]:
            order = random.permutation(len(self.prompts[clip])).tolist()
            found.append((order[: self.recipe.expressions], sources[random.integers(len(sources))]))
        return found

    def first(self, seed: int, step: int, clips: Sequence[int]) -> list[list[Asked]]:
        """What is asked first about each clip of a step."""
        chosen = self.chosen(seed, step, clips)
        asked = [self.asked(clip, rows) for clip, (rows, _) in zip(clips, chosen, strict=False)]
        return asked + [[]] * (len(clips) - len(asked))

    def asked(self, clip: int, rows: Sequence[int]) -> list[Asked]:
        return [(self.prompts[clip][row], NOTHING) for row in rows]

    def of_step(self, seed: int, step: int, clips: Sequence[int]) -> Wanted:
        """What the expressions of a step mean."""
        chosen = self.chosen(seed, step, clips)
        return self.wanted(clips[: len(chosen)], chosen, self.recipe.expressions)

    def wanted(self, clips: Sequence[int], chosen: Sequence[tuple[list[int], str]], count: int) -> Wanted:
        """What expressions of packs mean that begin with them, up to `count` of each clip."""
        most = self.recipe.boxes
        places, asked, has_target = (np.zeros((len(clips), count), kind) for kind in (np.int64, bool, bool))
        targets, boxes = (
            np.zeros((len(clips), count, most, 6), np.float32),
            np.zeros((len(clips), most, 6), np.float32),
        )
        is_box, right = np.zeros((len(clips), most), bool), np.zeros((len(clips), count, most), bool)
        anchors = np.zeros((len(clips), count, ANCHORS, most), bool)
        for number, (clip, (rows, source)) in enumerate(zip(clips, chosen, strict=True)):
            own, is_right, is_anchor = self.known(clip, source)
            boxes[number, : len(own)], is_box[number, : len(own)] = own, True
            ends = np.cumsum([len(self.prompts[clip][row]) for row in rows])
            places[number, : len(rows)], asked[number, : len(rows)] = self.start + ends - 1, True
            right[number, : len(rows), : len(own)] = is_right[rows]
            anchors[number, : len(rows), :, : len(own)] = is_anchor[rows]
            means_any, meant = self.meant(clip)
            has_target[number, : len(rows)], targets[number, : len(rows)] = means_any[rows], meant[rows]
        arrays = (places, asked, has_target, targets, boxes, is_box, right, anchors, self.data.positions(clips))
        tensors = [torch.from_numpy(values) for values in arrays]
        points = tensors[-1], tensors[4][..., :3]
        return Wanted(
            *tensors, *(voxels(values, VegaConfig.position_range, VegaConfig.position_voxel) for values in points)
        )

    def meant(self, clip: int) -> tuple[np.ndarray, np.ndarray]:
        """bool[E], which expressions about a clip mean anything, and float32[E, M, 6], their boxes as in `Wanted`."""
        if clip not in self._meant:
            rows = [np.array(row["targets"], np.float32).reshape(-1, 6) for row in self.data.expressions[clip]]
            filled = [np.resize(boxes, (self.recipe.boxes, 6)) for boxes in rows]  # zeros where there are none
            self._meant[clip] = np.array([len(boxes) > 0 for boxes in rows], bool), np.stack(filled)
        return self._meant[clip]

    def known(self, clip: int, source: str) -> tuple[torch.Tensor, ...]:
        """float32[m, 6], the boxes of a clip, bool[E, m], which of them an expression means, and bool[E, ANCHORS, m],
        which are its anchors.
        """
        if (clip, source) not in self._known:
            (table,) = (table for table in self.data.proposals[clip] if table["source"] == source)
            boxes = torch.tensor(table["boxes"], dtype=torch.float32).reshape(-1, 6)
            rows = self.data.expressions[clip]
            named = [row[name] for name in ("targets", "anchors") for row in rows]
            every = [box for own in named for box in own]
            right = right_for_each(boxes, torch.tensor(every, dtype=torch.float32).reshape(-1, 6))
            parts = right.split([len(own) for own in named], dim=1)
            means = torch.stack([part.any(1) for part in parts[: len(rows)]])
            anchors = torch.zeros(len(rows), ANCHORS, len(boxes), dtype=torch.bool)
            for number, part in enumerate(parts[len(rows) :]):
                anchors[number, : part.shape[1]] = part.T
            self._known[clip, source] = boxes, means, anchors
        return self._known[clip, source]


# --- What is computed ------------------------------------------------------------------------------------------------


def each(function: Callable, *shared: int) -> Callable:
    """A function of one prompt for G clips with E prompts each; arguments with `shared` numbers are of a clip."""

    def mapped(*values: torch.Tensor) -> torch.Tensor:
        within = tuple(None if number in shared else 0 for number in range(len(values)))
        return torch.vmap(torch.vmap(function, within))(*values)

    return mapped


def with_code(model: VegaForVisualGrounding, vectors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """float[..., D] with the code of voxels float[..., 3], if the model has a position code."""
    if model.config.position_code == "none":
        return vectors
    return vectors + sinusoids(places, vectors.shape[-1]).to(vectors.dtype)


def read_tokens(model: VegaForVisualGrounding, tokens: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """float[B, N, D], what the language model reads: tokens of the first G clips have the code of their positions."""
    count = len(wanted.token_voxels)
    return torch.cat([with_code(model, tokens[:count], wanted.token_voxels), tokens[count:]])


def grown(model: VegaForVisualGrounding, boxes: torch.Tensor) -> torch.Tensor:
    """float[..., 6] with the margin of the model on every side."""
    return torch.cat([boxes[..., :3], boxes[..., 3:] + 2 * model.config.grounding_margin], dim=-1)


def queries_of(states: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """float[G, E, D], the states at `<ground>`, of the last states float[B, L, D] of packs."""
    places = wanted.places[..., None].expand(-1, -1, states.shape[-1])
    return states[: len(places)].gather(1, places)


def object_vectors(model: VegaForVisualGrounding, tokens: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """float[G, M, D] of the boxes, of fused tokens float[G, N, D] without code."""
    inside = torch.vmap(points_in_boxes)(wanted.positions, grown(model, wanted.boxes))  # bool[G, M, N]
    means = inside.to(tokens.dtype) @ tokens / inside.sum(-1, keepdim=True).clamp(min=1)
    return with_code(model, means, wanted.box_voxels)


def box_scores(
    model: VegaForVisualGrounding, queries: torch.Tensor, objects: torch.Tensor, wanted: Wanted
) -> torch.Tensor:
    """float32[G, E, M + 1], of `object_vectors`; -inf for what fills up, "no target" last."""
    scores = each(model.grounding_head.box_scores, 1, 2, 3)(queries, objects, wanted.boxes, wanted.is_box)
    there = torch.cat([wanted.is_box, torch.ones_like(wanted.is_box[:, :1])], dim=1)
    return scores.masked_fill(~there[:, None], -torch.inf)


def token_boxes(
    model: VegaForVisualGrounding, queries: torch.Tensor, tokens: torch.Tensor, wanted: Wanted
) -> tuple[torch.Tensor, torch.Tensor]:
    """The boxes that are read off fused tokens float[G, N, D] without code.

    Returns:
        float32[G, E, N + 1], scores of the tokens as if they were boxes, "no target" last, and the boxes
        float32[G, E, 6].
    """
    head = model.grounding_head
    scores = each(head.ranking.scores, 1)(queries, with_code(model, tokens, wanted.token_voxels))
    weights = (scores[..., :-1] / head.ranking.temperature).softmax(-1)
    return scores, each(head.box, 1, 2)(queries, tokens, wanted.positions, weights)


def ground_losses(
    model: VegaForVisualGrounding, states: torch.Tensor, tokens: torch.Tensor, wanted: Wanted
) -> dict[str, torch.Tensor]:
    """Parts of the loss of `VegaForVisualGrounding`, means over prompts: of its boxes, its tokens, the box read off.

    Args:
        model: of the heads.
        states: float[B, L, D], the last of packs.
        tokens: float[B, N, D], fused, without code.
        wanted: of the first G of B clips.
    """
    head, queries, tokens = model.grounding_head, queries_of(states, wanted), tokens[: len(wanted.boxes)]

    def mean(losses: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        return (losses * (counted & wanted.asked)).sum() / wanted.asked.sum().clamp(min=1)

    def ranking(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        # Where all miss, neither they nor "no target" are right.
        return mean(each(head.ranking.loss)(scores, right), right.any(-1) | ~wanted.has_target)

    held = each(lambda points, boxes: points_in_boxes(points, boxes).any(0), 0)
    is_held = held(wanted.positions, grown(model, wanted.targets)) & wanted.has_target[..., None]
    scores, boxes = token_boxes(model, queries, tokens, wanted)
    objects = object_vectors(model, tokens, wanted)
    found = {
        "ground": ranking(box_scores(model, queries, objects, wanted), wanted.right),
        "ground_tokens": ranking(scores, is_held),
        "ground_box": mean(each(box_loss)(boxes, wanted.targets), wanted.has_target),
    }
    if head.relations is not None:
        losses = each(head.relations.anchor_losses, 1, 3)(queries, objects, wanted.anchors, wanted.is_box)
        counts = wanted.anchors.any(-1).sum(-1)
        found["ground_anchors"] = mean(losses.sum(-1) / counts.clamp(min=1), counts > 0)
    return found
