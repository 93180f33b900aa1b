"""What a model for grounding takes and gives: encoded visuals with positions, prompts, scores and boxes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers.utils import ModelOutput

from .inputs_vega3d import VisualInputs
from .modeling_vega3d import Gates


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


class Features(Protocol):
    """The generator's features on disk: a `FeatureCache`."""

    def fill(self, model: Any, inputs: Mapping) -> dict:
        """The inputs with features in the place of the generator's pixels."""
        ...


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


def listed(value: torch.Tensor | None) -> Any:
    return None if value is None else value.tolist()
