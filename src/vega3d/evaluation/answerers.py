"""What can be evaluated: a fused model, and the same model blind. `baselines` has those without a model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from vega3d.evaluation.vsibench import GENERATION, AnnotatedQuestion
from vega3d.features.cache import FeatureCache
from vega3d.inference.session import Session
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.questions import RawAnswer, SpatialQuestion

MAX_NEW_TOKENS = int(GENERATION["max_new_tokens"])  # type: ignore[call-overload]


class Answerer(Protocol):
    """What is evaluated.

    Attributes:
        settings: plain values for the result file, with a `name`; all that its answers depend on. A run is continued
            only with the same settings.
    """

    settings: dict

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        """For each question of a batch the raw text, and the probability of each letter for a choice, or None.

        An answer must not depend on other questions, their order or the size of the batch.
        """
        ...


class ModelAnswerer:
    """A fused model: 16 new tokens, greedy, as VSI-Bench asks, and the likelihood of the letters as the next token.

    Questions are answered in batches by a `Session`, which encodes a video once for all questions that come one after
    another.

    Args:
        model: loaded, in eval mode.
        processor: the model's own.
        name: what the result file calls the model.
        num_frames: frames sampled evenly; the processor's default if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        cache: the generator's features on disk, in which they are looked up and stored, rounded to bf16.
    """

    kind = "model"

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        processor: VegaProcessor,
        name: str,
        num_frames: int | None = None,
        fps: float | None = None,
        cache: FeatureCache | None = None,
    ):
        self.session = Session(model, processor, cache=cache, num_frames=num_frames, fps=fps)
        generator = model.config.generator_config
        self.settings = {
            "name": name,
            "kind": self.kind,
            "num_frames": self.session.num_frames,
            "fps": fps,
            "seed": generator.noise_seed,
            "fusion": model.config.fusion,
            "block": generator.block,
            "timestep": generator.timestep,
            "dtype": str(model.dtype),
            "device": model.device.type,
            "generation": GENERATION,
            "cached_features": cache is not None,
            "vision_attention": model.config.vlm_config.vision_config._attn_implementation,
            "notice": model.config.notice,
        }

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        """Answers of one batch, as `Answerer.answer`.

        Raises:
            ValueError: if a video cannot be read, a letter is no token, or logits are not finite.
        """
        return self.session.answer_batch([self.question(record) for record in records], MAX_NEW_TOKENS)

    def question(self, record: AnnotatedQuestion) -> SpatialQuestion:
        """A question as it is put to the model; raises ValueError if its video is missing."""
        if record.visual is None:
            raise ValueError(f"Question {record.id} has no video {record.dataset}/{record.scene}.mp4. Leave it out.")
        return record


class BlindAnswerer(ModelAnswerer):
    """The same model with the same prompt and no video: what the words alone give away."""

    kind = "blind"

    def question(self, record: AnnotatedQuestion) -> SpatialQuestion:
        return replace(record, visual=None)
