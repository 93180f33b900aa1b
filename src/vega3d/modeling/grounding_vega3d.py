"""Grounding: the box in the world that a sentence describes, among boxes given or from the visual tokens alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .boxes_vega3d import box_iou, checked_boxes
from .checkpoint_vega3d import AUTO_MAP
from .configuration_vega3d import VegaConfig
from .grounding_head_vega3d import (
    GroundingHead,
    InfoNCEHead,
    Ranking,
    box_loss,
    check_ranking,
    ranked,
    right_boxes,
)
from .inputs_vega3d import PATCH_GRIDS, VisualInputs, checked_streams, split_visuals, visual_rows
from .modeling_vega3d import Gates, VegaForSpatialReasoning, VegaTaskModel
from .positions_vega3d import object_vectors, points_in_boxes, position_code, with_positions
from .tokens_vega3d import checked_words, prompt_text

GROUND_TOKEN, COORD_TOKEN = "<ground>", "<coord>"
TOKENS = {"ground_token_id": GROUND_TOKEN, "coord_token_id": COORD_TOKEN}
PROMPT = "Find what is described in this scene: {expression}"
POSITIONS = ("visual_positions", "visual_positions_mask")
HOW_TO_MAKE = "Make one of any checkpoint by VegaForVisualGrounding.from_reasoning, or `vega3d assemble --grounding`."
Boxes = Sequence[torch.Tensor | None] | None
TokenBox = tuple[torch.Tensor, torch.Tensor]  # scores of the visual tokens, and the box that is read off them


@dataclass
class PlacedVisuals:
    """Visual tokens of a batch with their positions, computed once for several sentences.

    Args:
        mm_encoder_outputs: as in `VegaEncoderOutput`, with the code of positions: what the language model reads.
        tokens: float[N, D] a visual, without that code: what objects are means of.
        positions: float32[N, 3] a visual [m].
        placed: bool[N] a visual, which of the tokens have a position.
        gates: as in `VegaEncoderOutput`.
    """

    mm_encoder_outputs: dict[str, ModelOutput]
    tokens: tuple[torch.Tensor, ...]
    positions: tuple[torch.Tensor, ...]
    placed: tuple[torch.Tensor, ...]
    gates: Gates | None = None


@dataclass
class VegaGroundingOutput(ModelOutput):
    """What was found for each prompt of a batch.

    Args:
        loss: mean over the prompts, if there are labels.
        scores: float32[M + 1] a prompt: cosines of its M boxes and of "no target", the last; float32[M] logits for the
            head `mlp`. Without boxes, of its visual tokens that have a position.
        chosen: int[K] a prompt, the numbers of its boxes that the ranking takes, the best first; without boxes [0], or
            none.
        boxes: float32[K, 6 or 7] a prompt, these boxes [m].
        iou: float64[B], of the best box of each prompt with the label that it overlaps most; NaN where either is
            missing; None without labels.
        gates: as in `VegaEncoderOutput`.
    """

    loss: torch.Tensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    chosen: tuple[torch.Tensor, ...] | None = None
    boxes: tuple[torch.Tensor, ...] | None = None
    iou: torch.Tensor | None = None
    gates: Gates | None = None


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """The box that a sentence describes, and the next best one.

    Attributes:
        box: centre, sizes [m], and with boxes of 7 the yaw [rad]; None if there was no box to choose from.
        number: of the box among those given; None without them.
        score: cosine or logit of the box; without boxes the highest of the tokens that it was read off.
        runner_up: the next best box, or None.
        no_target_score: that nothing fits; None for the head `mlp`.
        boxes: those that the ranking takes, the best first: of `multi3drefer` none, one or several.
        scores: cosines or logits of `boxes`, one each.
    """

    box: list[float] | None
    number: int | None = None
    score: float | None = None
    runner_up: list[float] | None = None
    runner_up_score: float | None = None
    no_target_score: float | None = None
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def is_found(self) -> bool:
        """Whether there is a box, and it has a higher score than "no target"."""
        return self.score is not None and (self.no_target_score is None or self.score > self.no_target_score)


@dataclass(frozen=True)
class SeenVideo:
    """A video that `VegaForVisualGrounding.look` has read, for any number of sentences.

    Args:
        text: prompt that it was read with, up to `<ground>`.
        input_ids: int[1, L], of that prompt.
        visual: the visuals of `encode_scene`.
        language: what `VegaModel.forward` takes beside them.
        scene: encoded; None for a fusion that reads the sentence, which encodes it for each.
    """

    text: str
    input_ids: torch.Tensor
    visual: VisualInputs
    language: Mapping[str, Any]
    scene: PlacedVisuals | None


@dataclass
class Prompted:
    """What one prompt of a batch is about: float[D], float[N, D], float32[N, 3] of the N placed tokens, and boxes."""

    query: torch.Tensor
    tokens: torch.Tensor
    positions: torch.Tensor
    boxes: torch.Tensor | None


class VegaForVisualGrounding(VegaTaskModel):
    """Finds the box that a sentence describes, in a scene of posed frames with depth.

    A prompt ends with the token `<ground>`, whose hidden state is the query. Objects are means of the visual tokens
    whose positions lie in a box, with the code of its centre. Without boxes the tokens are scored as if they were
    objects, and one box is read off those that fit.

    Example:

    ```python
    model = VegaForVisualGrounding.from_pretrained("org/vega3d-grounding", device_map="auto")
    processor = AutoProcessor.from_pretrained("org/vega3d-grounding")
    found = model.ground(processor, frames, "the chair closest to the door", boxes, depth=depth,
                         intrinsics=intrinsics, world_from_camera=world_from_camera)
    ```
    """

    _auto_class = "AutoModelForZeroShotObjectDetection"  # a saved model names its code
    own_parts = ("grounding_head",)
    auto_map = {  # noqa: RUF012 (of the class, as its base has it)
        **AUTO_MAP,
        "AutoModel": "grounding_vega3d.VegaForVisualGrounding",
        "AutoModelForZeroShotObjectDetection": "grounding_vega3d.VegaForVisualGrounding",
    }

    def __init__(self, config: VegaConfig):
        if config.ground_token_id is None:
            raise ValueError(f"The config has no ground_token_id: this is no model for grounding. {HOW_TO_MAKE}")
        super().__init__(config)
        self.grounding_head = GroundingHead(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InfoNCEHead):
            init.normal_(module.no_target, mean=0.0, std=self.config.initializer_range)

    @classmethod
    def from_reasoning(
        cls, model: VegaForSpatialReasoning, tokenizer: Any, seed: int = 0, **options
    ) -> "VegaForVisualGrounding":
        """A model for grounding around the weights of another one, which are shared, with new heads.

        Args:
            model: assembled or loaded; its config and embeddings get the tokens `<ground>` and `<coord>`, if they lack
                them.
            tokenizer: of the model's processor; it gets the same tokens, and is to be saved with the model.
            seed: of the heads' first weights, and of the embeddings of new tokens.
            options: `position_code`, `grounding_head` and other fields of `VegaConfig` that change no other weights.

        Raises:
            ValueError: for an option that is none of these.
        """
        return cls.around(model, tokenizer, TOKENS, options, ("position_", "grounding_"), seed)

    def encode_scene(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_gates: bool = False,
        **visual: Unpack[VisualInputs],
    ) -> PlacedVisuals:
        """Visual tokens of a batch with their positions; hand them to `forward` to look for several things.

        Raises ValueError as `VegaModel.encode`, and if the visuals have no positions.
        """
        streams = checked_streams(input_ids, visual, self.config)
        points, mask = visual.get("visual_positions"), visual.get("visual_positions_mask")
        if points is None:
            raise ValueError(
                "There are no visual_positions, so boxes in the world cannot be compared with what is seen. Give the "
                "processor depth, intrinsics and world_from_camera."
            )
        semantic = self.model._semantic(streams, None) if self.config.grounding_tokens == "semantic" else None
        placeless: Any = {name: value for name, value in visual.items() if name not in POSITIONS}
        encoded = self.model.encode(
            input_ids, attention_mask, output_gates=output_gates, semantic=semantic, **placeless
        )
        outputs = encoded.mm_encoder_outputs
        tokens = [item for output in (semantic or outputs).values() for item in output.pooler_output]
        points = points.to(tokens[0].device)
        mask = torch.ones_like(points[:, 0], dtype=torch.bool) if mask is None else mask.to(points.device)
        sizes = [len(item) for item in tokens]
        return PlacedVisuals(
            mm_encoder_outputs=dict(with_positions(outputs, visual, self.config)),
            tokens=tuple(tokens),
            positions=points.split(sizes),
            placed=mask.split(sizes),
            gates=encoded.gates,
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        boxes: Boxes = None,
        labels: Sequence[torch.Tensor] | None = None,
        ranking: Ranking = "scanrefer",
        scene: PlacedVisuals | None = None,
        output_gates: bool = False,
        **kwargs,
    ) -> VegaGroundingOutput:
        """Scores of the boxes of each prompt, which of them are chosen, and the loss if there are labels.

        Args:
            input_ids: int[B, L], each row with one token `<ground>`; so is `attention_mask`.
            boxes: float[M, 6 or 7] for each prompt, centre and sizes along x, y, z [m], the seventh the yaw [rad]; M
                may be 0. None for a prompt, or for all, without boxes: one is found among the visual tokens.
            labels: the true boxes float[K, 6 or 7] of each prompt; K = 0 says that nothing fits. Boxes that overlap
                one of them are right (`right_boxes`). A prompt whose boxes all miss its labels is not ranked: none of
                them is right, nor is "no target".
            ranking: `scanrefer` takes the best box; `multi3drefer` none, one or several (`InfoNCEHead.chosen`).
            scene: of `encode_scene`, in place of the visuals; their grids are given nevertheless.
            output_gates: also return the gates.
            kwargs: the `VisualInputs` with their positions, and what `VegaModel.forward` takes.

        Raises:
            ValueError: as `encode_scene`; if a prompt has not one `<ground>`; for boxes that are none
                (`checked_boxes`); without boxes if no visual token has a position.
        """
        check_ranking(ranking)
        ground_places(input_ids, self.config)
        boxes = self._checked(boxes, "boxes", len(input_ids))
        targets = None if labels is None else self._checked_labels(labels, len(input_ids))
        visual, language = split_visuals(kwargs)
        if scene is None:
            scene = self.encode_scene(input_ids, attention_mask, output_gates, **visual)
        prompts = self._prompted(input_ids, attention_mask, boxes, scene, visual, language)

        learns = targets is not None and self.config.grounding_box_weight > 0
        found_free = [
            self._token_box(one) if one.boxes is None or (learns and len(one.tokens)) else None for one in prompts
        ]
        results = [self._found(prompt, free, ranking) for prompt, free in zip(prompts, found_free, strict=True)]
        scores, chosen, found = (tuple(items) for items in zip(*results, strict=True))
        loss, iou = None, None
        if targets is not None:
            parts = zip(prompts, scores, found_free, targets, strict=True)
            loss = torch.stack([self._loss(*part) for part in parts]).mean()
            iou = torch.stack([best_iou(one, target) for one, target in zip(found, targets, strict=True)])
        return VegaGroundingOutput(
            loss=loss, scores=scores, chosen=chosen, boxes=found, iou=iou, gates=scene.gates if output_gates else None
        )

    @torch.no_grad()
    def ground(
        self,
        processor: Any,
        video: Any,
        expression: str | Sequence[str],
        boxes: Any = None,
        ranking: Ranking = "scanrefer",
        **inputs,
    ) -> "Grounding | list[Grounding]":
        """The box that a sentence describes, or those of several sentences about the same scene.

        Args:
            processor: `VegaProcessor` of this model.
            video: posed frames, as the processor takes a video; or what `look` made of them.
            expression: one sentence, or several, for which the scene is encoded once.
            boxes: float[M, 6 or 7], proposals [m]; None to do without.
            ranking: decides on `Grounding.boxes`, as in `forward`.
            inputs: `depth`, `intrinsics`, `world_from_camera` of the frames, `num_frames` and other arguments of the
                processor.

        Raises:
            ValueError: as `forward` and the processor, and for a sentence that is empty or holds special tokens.
        """
        check_ranking(ranking)
        expressions = [expression] if isinstance(expression, str) else list(expression)
        texts = [ground_text(processor, one) for one in expressions]
        if boxes is not None:
            boxes = self._checked([boxes], "boxes", 1)[0]
        seen = video if isinstance(video, SeenVideo) else self.look(processor, video, expressions[0], **inputs)
        found = []
        for text in texts:
            prompt_ids = with_other_text(seen.input_ids, seen.text, text, processor)
            scene = self.encode_scene(prompt_ids, **seen.visual) if seen.scene is None else seen.scene
            [prompt] = self._prompted(prompt_ids, None, [boxes], scene, seen.visual, seen.language)
            found.append(self._grounding(prompt, ranking))
        return found[0] if isinstance(expression, str) else found

    @torch.no_grad()
    def look(self, processor: Any, video: Any, expression: str = "it", **inputs) -> SeenVideo:
        """A video read and encoded once, for `ground` to find several things in; `expression` is any sentence.

        Arguments are those of `ground`, and so are the errors.
        """
        text = ground_text(processor, expression)
        batch: dict[str, Any] = dict(processor(text=[text], videos=[video], **inputs).to(self.device))
        ids = batch.pop("input_ids")
        for name in ("attention_mask", "mm_token_type_ids"):  # of this sentence
            batch.pop(name, None)
        visual, language = split_visuals(batch)
        reads = self.model.fusion is not None and self.model.fusion.needs_instruction
        return SeenVideo(text, ids, visual, language, None if reads else self.encode_scene(ids, **visual))

    @property
    def _head_device(self) -> torch.device:
        """Where boxes are compared: other parts may lie on other devices."""
        return next(self.grounding_head.parameters()).device

    def _checked(self, boxes: Any, name: str, count: int) -> list[torch.Tensor | None]:
        """The boxes of each prompt, checked; raises ValueError if they are of another number of prompts."""
        if boxes is None:
            return [None] * count
        if len(boxes) != count:
            raise ValueError(
                f"There are {count} prompts, but {name} for {len(boxes)}. Give a list, one float[M, 6 or 7] a prompt."
            )
        lower, upper = self.config.position_range
        device = self._head_device
        return [
            None if one is None else checked_boxes(one, lower, upper, f"{name} of prompt {number}", device)
            for number, one in enumerate(boxes)
        ]

    def _checked_labels(self, labels: Any, count: int) -> list[torch.Tensor]:
        """The true boxes of each prompt, checked; raises ValueError as `_checked`, and for a prompt without."""
        checked = self._checked(labels, "labels", count)
        given = [one for one in checked if one is not None]
        if len(given) < count:
            raise ValueError(
                "labels has None for a prompt. Give float[0, 6] if nothing fits, or leave the prompt out."
            )
        return given

    def _prompted(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        boxes: Sequence[torch.Tensor | None],
        scene: PlacedVisuals,
        visual: VisualInputs,
        language: Mapping[str, Any],
    ) -> list[Prompted]:
        """Query, placed tokens and boxes of each prompt."""
        grids: dict[str, Any] = {name: visual.get(name) for name in PATCH_GRIDS}
        outputs = scene.mm_encoder_outputs
        hidden = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mm_encoder_outputs=outputs,
            **{"use_cache": False, **grids, **language},
        ).last_hidden_state
        places = ground_places(input_ids, self.config).to(hidden.device)
        queries = hidden[torch.arange(len(hidden), device=hidden.device), places].to(self._head_device)
        rows = [
            row for name in outputs for row in visual_rows(input_ids, name, grids[f"{name}_grid_thw"], self.config)
        ]
        placed = [
            (items[mask].to(queries), points[mask].to(queries.device, torch.float32))
            for items, points, mask in zip(scene.tokens, scene.positions, scene.placed, strict=True)
        ]
        prompts = []
        for row, (query, own_boxes) in enumerate(zip(queries, boxes, strict=True)):
            own = [visual for number, visual in zip(rows, placed, strict=True) if number == row]
            prompt = Prompted(
                query=query,
                tokens=torch.cat([query.new_zeros(0, len(query)), *(items for items, _ in own)]),
                positions=torch.cat([query.new_zeros(0, 3, dtype=torch.float32), *(points for _, points in own)]),
                boxes=own_boxes,
            )
            if own_boxes is None and len(prompt.tokens) == 0:
                raise ValueError(
                    f"Prompt {row} has neither boxes nor a visual token with a position. Give boxes, or depth that is "
                    "not empty."
                )
            prompts.append(prompt)
        return prompts

    def _coded(self, vectors: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """float[M, D] with the code of points float[M, 3], if the model has a position code."""
        if self.config.position_code == "none":
            return vectors
        return vectors + position_code(points, self.config).to(vectors)

    def _grown(self, boxes: torch.Tensor) -> torch.Tensor:
        """The boxes float[M, 6 or 7] with `grounding_margin` on every side."""
        grown = boxes.clone()
        grown[:, 3:6] += 2 * self.config.grounding_margin
        return grown

    def _box_scores(self, prompt: Prompted, boxes: torch.Tensor) -> torch.Tensor:
        objects = object_vectors(prompt.tokens, prompt.positions, None, self._grown(boxes))
        return self.grounding_head.ranking.scores(prompt.query, self._coded(objects, boxes[:, :3]))

    def _token_box(self, prompt: Prompted) -> TokenBox:
        """Scores of the placed tokens, as of boxes, and the box float32[6] that is read off them."""
        head, tokens = self.grounding_head, self._coded(prompt.tokens, prompt.positions)
        scores = head.ranking.scores(prompt.query, tokens)
        weights = (scores[: len(tokens)] / head.ranking.temperature).softmax(0)
        return scores, head.box(prompt.query, prompt.tokens, prompt.positions, weights)

    def _found(
        self, prompt: Prompted, free: TokenBox | None, ranking: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, the numbers of the boxes chosen, and these boxes; without boxes those of `_token_box`."""
        head = self.grounding_head.ranking
        if prompt.boxes is None:
            assert free is not None
            scores, box = free
            takes = ranking == "scanrefer" or len(head.chosen(scores)) > 0
            return scores, torch.arange(int(takes), device=scores.device), box[None][: int(takes)]
        scores = self._box_scores(prompt, prompt.boxes)
        chosen = ranked(scores, len(prompt.boxes))[:1] if ranking == "scanrefer" else head.chosen(scores)
        return scores, chosen, prompt.boxes[chosen]

    def _loss(
        self, prompt: Prompted, scores: torch.Tensor, free: TokenBox | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """That of the ranking of the boxes, and of the box that is found without them."""
        weight = 1.0 if prompt.boxes is None else self.config.grounding_box_weight
        loss = scores.sum() * 0
        if prompt.boxes is not None:
            loss = loss + self._ranking_loss(scores, right_boxes(prompt.boxes, targets), targets)
        if free is not None:
            token_scores, box = free
            held = points_in_boxes(prompt.positions, self._grown(targets)).any(0)
            found = self._ranking_loss(token_scores, held, targets)
            if len(targets) > 0:
                found = found + box_loss(box, targets)
            loss = loss + weight * found
        return loss

    def _ranking_loss(self, scores: torch.Tensor, right: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if len(targets) > 0 and not right.any():
            return scores.sum() * 0  # all miss: neither they nor "no target" are right
        return self.grounding_head.ranking.loss(scores, right)

    def _free_boxes(self, prompt: Prompted) -> tuple[TokenBox, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Scores and box of the tokens; and this box, then that of what lies outside of it, with their scores.

        Where a box holds no token at all, there is no second one: it would be the same.
        """
        free = self._token_box(prompt)
        best = [(free[1], free[0][: len(prompt.tokens)].max())]
        outside = ~points_in_boxes(prompt.positions, self._grown(free[1][None]))[0]
        if outside.any() and not outside.all():
            rest = replace(prompt, tokens=prompt.tokens[outside], positions=prompt.positions[outside])
            scores, box = self._token_box(rest)
            best.append((box, scores[: len(rest.tokens)].max()))
        return free, best

    def _grounding(self, prompt: Prompted, ranking: str) -> Grounding:
        """The best box, the next one, and those that the ranking takes."""
        head = self.grounding_head.ranking
        numbers: list[int] = []
        if prompt.boxes is None:
            free, best = self._free_boxes(prompt)
            scores, _, taken = self._found(prompt, free, ranking)
            taken_scores = best[0][1].repeat(len(taken))
        else:
            scores, chosen, taken = self._found(prompt, None, ranking)
            numbers = ranked(scores, len(prompt.boxes)).tolist()
            best = [(prompt.boxes[number], scores[number]) for number in numbers[:2]]
            taken_scores = scores[chosen]
        (first, score), (runner_up, runner_up_score) = [*best, (None, None), (None, None)][:2]
        return Grounding(
            box=listed(first),
            number=numbers[0] if numbers else None,
            score=listed(score),
            runner_up=listed(runner_up),
            runner_up_score=listed(runner_up_score),
            no_target_score=float(scores[-1]) if head.has_no_target else None,
            boxes=taken.tolist(),
            scores=taken_scores.tolist(),
        )


def ground_places(input_ids: torch.Tensor, config: VegaConfig) -> torch.Tensor:
    """int[B]: where `<ground>` stands in each row of int[B, L]; raises ValueError unless each row has one."""
    found = torch.eq(input_ids, config.ground_token_id)  # type: ignore[arg-type]  # `__init__` saw that there is one
    counts = found.sum(-1).tolist()
    wrong = [row for row, count in enumerate(counts) if count != 1]
    if wrong:
        raise ValueError(
            f"Prompt {wrong[0]} has {counts[wrong[0]]} tokens {GROUND_TOKEN} (id {config.ground_token_id}), but must "
            f"have one. Write the prompt by `ground_text`, which puts it at the end."
        )
    return found.long().argmax(-1)


def ground_text(processor: Any, expression: str) -> str:
    """The prompt about one video that asks for what a sentence describes, up to `<ground>`.

    Raises ValueError for a sentence that is empty, or that holds `<ground>` or placeholders of visuals.
    """
    kind, reserved = "a sentence that describes an object", (GROUND_TOKEN, COORD_TOKEN)
    words = checked_words(processor, expression, "The expression", kind, reserved)
    content = [{"type": "video"}, {"type": "text", "text": PROMPT.format(expression=words)}]
    return prompt_text(processor, content, GROUND_TOKEN)


def with_other_text(input_ids: torch.Tensor, text: str, other: str, processor: Any) -> torch.Tensor:
    """int[1, L']: the prompt int[1, L] of `text` with what follows the video taken from `other`.

    Raises ValueError if the tokens after the video depend on what stands before it.
    """
    if other == text:
        return input_ids
    tails = [one.split(processor.video_token)[1] for one in (text, other)]
    tail, other_tail = (
        processor.tokenizer(one, add_special_tokens=False, return_tensors="pt")["input_ids"].to(input_ids.device)
        for one in tails
    )
    if not torch.equal(input_ids[:, -tail.shape[1] :], tail):
        raise ValueError(
            f"The processor writes {tails[0][:80]!r} after the video in another way than alone, so the video cannot "
            "be shared between sentences. Ask about each by itself."
        )
    return torch.cat([input_ids[:, : -tail.shape[1]], other_tail], dim=1)


def listed(value: torch.Tensor | None) -> Any:
    return None if value is None else value.tolist()


def best_iou(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """float64[]: of the first box with the target that it overlaps most; NaN where either is missing."""
    if len(boxes) == 0 or len(targets) == 0:
        return torch.full((), float("nan"), dtype=torch.float64, device=boxes.device)
    return box_iou(boxes[:1].detach(), targets).max()
