"""Grounding: the box in the world that a sentence describes, among boxes given or from the visual tokens alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import nn
from transformers import initialization as init

from .boxes_vega3d import best_iou, checked_box_lists, grown
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
    right_for_each,
)
from .grounding_outputs_vega3d import (
    Features,
    Grounding,
    PlacedVisuals,
    Prompted,
    SeenVideo,
    VegaGroundingOutput,
    listed,
)
from .grounding_prompts_vega3d import TOKENS, ground_places, ground_text, sentences, with_other_text
from .inputs_vega3d import PATCH_GRIDS, VisualInputs, checked_streams, split_visuals, visual_rows
from .modeling_vega3d import VegaForSpatialReasoning, VegaTaskModel
from .positions_vega3d import object_vectors, points_in_boxes, position_code, with_positions
from .relation_head_vega3d import ANCHORS, BoxRelations

POSITIONS = ("visual_positions", "visual_positions_mask")
HOW_TO_MAKE = "Make one of any checkpoint by VegaForVisualGrounding.from_reasoning, or `vega3d assemble --grounding`."
Boxes = Sequence[torch.Tensor | None] | None
TokenBox = tuple[torch.Tensor, torch.Tensor]  # scores of the visual tokens, and the box that is read off them


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
        elif isinstance(module, BoxRelations):
            init.zeros_(module.outer.weight)
            init.zeros_(module.outer.bias)

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
        anchors: Boxes = None,
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
            anchors: with labels and the head `relations`, the true boxes float[A, 6 or 7] of what a sentence names
                beside the thing it means, in the order of its words, A <= 2; None for a prompt where they are not
                known. Where they are is learned from them; they are no part of the answer.
            ranking: `scanrefer` takes the best box; `multi3drefer` none, one or several (`InfoNCEHead.chosen`).
            scene: of `encode_scene`, in place of the visuals; their grids are given nevertheless.
            output_gates: also return the gates.
            kwargs: the `VisualInputs` with their positions, and what `VegaModel.forward` takes.

        Raises:
            ValueError: as `encode_scene`; if a prompt has not one `<ground>`; for boxes that are none
                (`checked_boxes`); without boxes if no visual token has a position; for anchors that nothing reads.
        """
        check_ranking(ranking)
        ground_places(input_ids, self.config)
        boxes = self._checked(boxes, "boxes", len(input_ids))
        targets = None if labels is None else self._checked_labels(labels, len(input_ids))
        named = self._checked_anchors(anchors, targets, len(input_ids))
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
            parts = zip(prompts, scores, found_free, targets, named, strict=True)
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
    ) -> Grounding | list[Grounding]:
        """The box that a sentence describes, or those of several sentences about the same scene.

        Args:
            processor: `VegaProcessor` of this model.
            video: posed frames, as the processor takes a video; or what `look` made of them.
            expression: one sentence, or several, for which the scene is encoded once.
            boxes: float[M, 6 or 7], proposals [m]; None to do without.
            ranking: decides on `Grounding.boxes`, as in `forward`.
            inputs: `depth`, `intrinsics`, `world_from_camera` of the frames, `num_frames` and other arguments of the
                processor; and `cache`, as of `look`.

        Raises:
            ValueError: as `forward` and the processor; for a sentence that is empty or holds special tokens, or none;
                and for `inputs` beside what `look` made, which has read its own.
        """
        check_ranking(ranking)
        expressions = sentences(expression)
        texts = [ground_text(processor, one) for one in expressions]
        given = [name for name, value in inputs.items() if value is not None]
        if isinstance(video, SeenVideo) and given:
            raise ValueError(
                f"{', '.join(given)} would have no effect on a video that `look` has read. Give it to `look`."
            )
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
    def look(
        self, processor: Any, video: Any, expression: str = "it", cache: Features | None = None, **inputs
    ) -> SeenVideo:
        """A video read and encoded once, for `ground` to find several things in; `expression` is any sentence.

        `cache` is a `FeatureCache`, in which the generator's features are looked up and stored, rounded to bf16.
        The other arguments are those of `ground`, and so are the errors.
        """
        text = ground_text(processor, expression)
        batch: dict[str, Any] = dict(processor(text=[text], videos=[video], **inputs).to(self.device))
        if cache is not None:
            batch = cache.fill(self, batch)
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
        lower, upper = self.config.position_range
        return checked_box_lists(boxes, count, lower, upper, name, self._head_device)

    def _checked_labels(self, labels: Any, count: int) -> list[torch.Tensor]:
        """The true boxes of each prompt, checked; raises ValueError as `_checked`, and for a prompt without."""
        checked = self._checked(labels, "labels", count)
        given = [one for one in checked if one is not None]
        if len(given) < count:
            raise ValueError(
                "labels has None for a prompt. Give float[0, 6] if nothing fits, or leave the prompt out."
            )
        return given

    def _checked_anchors(
        self, anchors: Boxes, targets: list[torch.Tensor] | None, count: int
    ) -> list[torch.Tensor | None]:
        """The anchors of each prompt, checked; raises ValueError as `_checked`, and for those that nothing reads."""
        if anchors is None:
            return [None] * count
        if targets is None or self.grounding_head.relations is None:
            head = self.config.grounding_head
            raise ValueError(
                f"anchors are learned from with labels, by grounding_head='relations', but this is {head!r} with "
                f"labels {'not given' if targets is None else 'given'}. Leave the anchors out."
            )
        checked = self._checked(anchors, "anchors", count)
        most = max((len(one) for one in checked if one is not None), default=0)
        if most > ANCHORS:
            raise ValueError(
                f"anchors has {most} boxes of one prompt, but at most {ANCHORS} are read. Leave some out."
            )
        return checked

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

    def _objects(self, prompt: Prompted, boxes: torch.Tensor) -> torch.Tensor:
        """float[M, D], the vectors of boxes."""
        objects = object_vectors(prompt.tokens, prompt.positions, None, grown(boxes, self.config.grounding_margin))
        return self._coded(objects, boxes[:, :3])

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
        head = self.grounding_head
        if prompt.boxes is None:
            assert free is not None
            scores, box = free
            takes = ranking == "scanrefer" or len(head.ranking.chosen(scores)) > 0
            return scores, torch.arange(int(takes), device=scores.device), box[None][: int(takes)]
        scores = head.box_scores(prompt.query, self._objects(prompt, prompt.boxes), prompt.boxes)
        chosen = ranked(scores, len(prompt.boxes))[:1] if ranking == "scanrefer" else head.ranking.chosen(scores)
        return scores, chosen, prompt.boxes[chosen]

    def _loss(
        self,
        prompt: Prompted,
        scores: torch.Tensor,
        free: TokenBox | None,
        targets: torch.Tensor,
        anchors: torch.Tensor | None,
    ) -> torch.Tensor:
        """That of the ranking of the boxes, of its anchors, and of the box that is found without boxes."""
        weight = 1.0 if prompt.boxes is None else self.config.grounding_box_weight
        loss = scores.sum() * 0
        if prompt.boxes is not None:
            loss = loss + self._ranking_loss(scores, right_boxes(prompt.boxes, targets), targets)
            if anchors is not None:
                loss = loss + self._anchor_loss(prompt, prompt.boxes, anchors)
        if free is not None:
            token_scores, box = free
            held = points_in_boxes(prompt.positions, grown(targets, self.config.grounding_margin)).any(0)
            found = self._ranking_loss(token_scores, held, targets)
            if len(targets) > 0:
                found = found + box_loss(box, targets)
            loss = loss + weight * found
        return loss

    def _anchor_loss(self, prompt: Prompted, boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Mean over the anchors that one of the boxes is right for."""
        right = torch.zeros(ANCHORS, len(boxes), dtype=torch.bool, device=boxes.device)
        right[: len(anchors)] = right_for_each(boxes, anchors).T
        assert self.grounding_head.relations is not None  # `_checked_anchors` sees to it
        losses = self.grounding_head.relations.anchor_losses(prompt.query, self._objects(prompt, boxes), right)
        return losses.sum() / right.any(-1).sum().clamp(min=1)

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
        outside = ~points_in_boxes(prompt.positions, grown(free[1][None], self.config.grounding_margin))[0]
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
