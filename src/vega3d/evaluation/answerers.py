"""What can be evaluated: a fused model, and the baselines blind, chance and most frequent."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from transformers import BatchFeature

from vega3d.evaluation.metrics import to_number
from vega3d.evaluation.vsibench import GENERATION, QuestionRecord
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.video_vega3d import VideoClip, choose_frames, read_video
from vega3d.spatial_qa import SpatialQuestion, letter_probabilities

Answer = tuple[str, dict[str, float] | None]


class Answerer(Protocol):
    """What is evaluated.

    Attributes:
        settings: plain values for the result file, with a `name`; all that its answers depend on. A run is continued
            only with the same settings.
    """

    settings: dict

    def answer(self, record: QuestionRecord) -> Answer:
        """The raw text, and the probability of each letter for a choice, or None.

        The answer must not depend on other questions or their order.
        """
        ...


class ModelAnswerer:
    """A fused model: 16 new tokens, greedy, as VSI-Bench asks, and the likelihood of the letters as the next token.

    The last video's frames and their fused tokens are kept, so that all questions on one scene cost one pass of the
    generator and of the vision tower. A fusion that reads the question keeps the generator's features only.

    Args:
        model: loaded, in eval mode.
        processor: of the model.
        name: of the model, for the result file.
        num_frames: frames sampled evenly; the processor's default if neither this nor `fps` is given.
        fps: frames sampled a second instead.
    """

    kind = "model"

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        processor: VegaProcessor,
        name: str,
        num_frames: int | None = None,
        fps: float | None = None,
    ):
        self.model, self.processor = model, processor
        self.num_frames = processor.num_frames if num_frames is None and fps is None else num_frames
        self.fps = fps
        generator = model.config.generator_config
        self.settings = {
            "name": name,
            "kind": self.kind,
            "num_frames": self.num_frames,
            "fps": fps,
            "seed": generator.noise_seed,
            "fusion": model.config.fusion,
            "block": generator.block,
            "timestep": generator.timestep,
            "dtype": str(model.dtype),
            "device": model.device.type,
            "generation": GENERATION,
            "notice": model.config.notice,
        }
        self._visual: Path | VideoClip | None = None
        self._clip: VideoClip | None = None
        self._features: list[torch.Tensor] | None = None
        self._tokens: Mapping | None = None

    @torch.no_grad()
    def answer(self, record: QuestionRecord) -> Answer:
        """
        Raises:
            ValueError: if the video cannot be read.
        """
        inputs = self.inputs_of(record)
        probabilities = self.probabilities_of(record.letters, inputs) if record.options else None
        greedy: dict = {name: GENERATION[name] for name in ("max_new_tokens", "num_beams", "do_sample")}
        generated = self.model.generate(**inputs, **greedy)
        new_tokens = generated[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(new_tokens, skip_special_tokens=True), probabilities

    def inputs_of(self, record: QuestionRecord) -> BatchFeature:
        """The prompt with its visual tokens, encoded once for likelihood and generation."""
        clip = self.clip_of(record)
        messages = SpatialQuestion(clip, record.prompt).messages()
        inputs = self.tokenise(messages, num_frames=len(clip))
        fusion = self.model.config.fusion
        if fusion != "none":
            if self._features is None:
                self._features = self.model.generator_features(**inputs)
            inputs["generator_hidden_states"] = self._features
            del inputs["generator_pixel_values_videos"]
        if self._tokens is None or (fusion != "none" and FUSIONS[fusion].needs_instruction):
            self._tokens = self.model.encode(**inputs).mm_encoder_outputs
        inputs["mm_encoder_outputs"] = self._tokens
        return inputs

    def tokenise(self, messages: list[dict], **sampling) -> BatchFeature:
        inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, **sampling
        )
        return inputs.to(self.model.device)

    def clip_of(self, record: QuestionRecord) -> VideoClip:
        """The sampled frames of a question's video, kept while the next questions are on the same one."""
        if record.visual is None:
            raise ValueError(f"Question {record.id} has no video {record.dataset}/{record.scene}.mp4. Leave it out.")
        if self._clip is None or record.visual != self._visual:
            if isinstance(record.visual, VideoClip):
                whole = record.visual
                chosen = choose_frames(whole.seconds, self.num_frames, self.fps)
                self._clip = VideoClip(whole.frames[chosen], whole.seconds[chosen], whole.source, whole.timed)
            else:
                self._clip = read_video(record.visual, self.num_frames, self.fps)
            self._visual, self._features, self._tokens = record.visual, None, None
        return self._clip

    def probabilities_of(self, letters: str, inputs: BatchFeature) -> dict[str, float]:
        """Probability of each letter as the next token, among the letters; ValueError if a letter is no token."""
        logits = self.model(**inputs, logits_to_keep=1).logits[0, -1]  # float[vocabulary]
        return letter_probabilities(logits, letters, self.processor.tokenizer)


class BlindAnswerer(ModelAnswerer):
    """The same model with the same prompt and no video: what the words alone give away."""

    kind = "blind"

    def inputs_of(self, record: QuestionRecord) -> BatchFeature:
        return self.tokenise([{"role": "user", "content": [{"type": "text", "text": record.prompt}]}])


class ChanceAnswerer:
    """A letter by chance; equal likelihoods, whose score is exactly the level of chance; no answer to a number.

    Args:
        seed: the letter is a function of the seed and the question.
    """

    def __init__(self, seed: int = 0):
        self.settings = {"name": "chance", "kind": "chance", "seed": seed}
        self.seed = seed

    def answer(self, record: QuestionRecord) -> Answer:
        if not record.options:
            return "", None
        letter = random.Random(f"{self.seed}:{record.dataset}:{record.scene}:{record.id}").choice(record.letters)
        return letter, dict.fromkeys(record.letters, 1 / len(record.letters))


class MostFrequentAnswerer:
    """Always the most frequent right answer of the question's type, counted on a training table.

    Of equally frequent ones the smallest number or the first letter. VSI-Bench's own "frequency" row counts on the
    test questions and is therefore higher.

    Args:
        train: questions of other scenes than those to be answered.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, train: Sequence[QuestionRecord]):
        if not train:
            raise ValueError("The most frequent answer is counted on training questions, but got none.")
        counts: dict[str, Counter] = {}
        for record in train:
            counts.setdefault(record.question_type, Counter())[record.ground_truth] += 1
        self.answers = {name: most_frequent(counter) for name, counter in counts.items()}
        self.scenes = {(record.dataset, record.scene) for record in train}
        self.settings = {
            "name": "most frequent",
            "kind": "most_frequent",
            "answers": self.answers,
            "train": len(train),
        }

    def answer(self, record: QuestionRecord) -> Answer:
        """
        Raises:
            ValueError: if the question is on a training scene, or of a type that the training table lacks.
        """
        if (record.dataset, record.scene) in self.scenes:
            raise ValueError(
                f"Question {record.id} is on {record.dataset}/{record.scene}, which the most frequent answers were "
                "counted on. Give a training table of other scenes."
            )
        if record.question_type not in self.answers:
            raise ValueError(f"The training table has no {record.question_type}, but question {record.id} is one.")
        return self.answers[record.question_type], None


def most_frequent(counts: Counter[str]) -> str:
    """The answer with the highest count; of equals the smallest number or the first letter."""

    def rank(text: str) -> tuple[int, float, str]:
        number = to_number(text)
        return -counts[text], math.inf if number is None else number, text

    return min(counts, key=rank)
