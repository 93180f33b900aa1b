"""What can be evaluated: a fused model, the same model blind, and baselines without a model.

Those answer by chance, or always with the most frequent answer.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from vega3d.evaluation.metrics import average, is_choice, score_parsed, to_number
from vega3d.evaluation.vsibench import GENERATION, AnnotatedQuestion
from vega3d.questions import RawAnswer, ReasonedAnswer, SpatialQuestion

if TYPE_CHECKING:  # they import torch, which baselines and refusals do without
    from vega3d.features.cache import FeatureCache
    from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning, VegaTaskModel
    from vega3d.processing.processing_vega3d import VegaProcessor


class Answerer(Protocol):
    """What is evaluated.

    Attributes:
        settings: plain values for the result file, with a `name`; all that its answers depend on. A run is continued
            only with the same settings.
    """

    settings: dict

    def answer(self, records: Sequence[AnnotatedQuestion]) -> Sequence[RawAnswer | ReasonedAnswer]:
        """For each question of a batch the raw text, and the probability of each letter for a choice, or None.

        What the text stands on may be a third value, which goes into the result file and is not scored.

        An answer must not depend on other questions, their order or the size of the batch.
        """
        ...


class ModelAnswerer:
    """A fused model: greedy, 16 new tokens as VSI-Bench asks, and the likelihood of the letters as the next token.

    Of a model that answers in words 128 tokens are made, the official parser gets the answer behind what it stands on,
    and the likelihood is that of the letters there.

    Questions are answered in batches by a `Session`, which encodes a video once for all questions that come one after
    another.

    Args:
        name: what the result file calls the model.
        num_frames: as in `Session`, as is `fps`.
        cache: the generator's features on disk, in which they are looked up and stored, rounded to bf16.
    """

    kind = "model"

    def __init__(
        self,
        model: "VegaForSpatialReasoning",
        processor: "VegaProcessor",
        name: str,
        num_frames: int | None = None,
        fps: float | None = None,
        cache: "FeatureCache | None" = None,
    ):
        from vega3d.inference.session import Session

        self.session = Session(model, processor, cache=cache, num_frames=num_frames, fps=fps)
        self.settings = {
            "name": name,
            "kind": self.kind,
            "num_frames": self.session.num_frames,
            "fps": fps,
            **model_settings(model),
            "generation": {**GENERATION, "max_new_tokens": self.session.answer_tokens},
            "cached_features": cache is not None,
        }
        if model.config.boxes_in_words:  # absent otherwise, so that earlier runs continue
            self.settings["boxes_in_words"] = True

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        """As `Answerer.answer`; raises ValueError as `Session.answer_batch` does."""
        return self.session.answer_batch([self.question(record) for record in records])

    def question(self, record: AnnotatedQuestion) -> SpatialQuestion:
        """A question as it is put to the model; raises ValueError if its video is missing."""
        if record.visual is None:
            raise ValueError(f"Question {record.id} has no video {record.dataset}/{record.scene}.mp4. Leave it out.")
        return record


def model_settings(model: "VegaTaskModel") -> dict:
    """What of a model its answers depend on, for the result file."""
    generator = model.config.generator_config
    return {
        "seed": generator.noise_seed,
        "fusion": model.config.fusion,
        "block": generator.block,
        "timestep": generator.timestep,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "vision_attention": model.config.vlm_config.vision_config._attn_implementation,
        "notice": model.config.notice,
    }


class UnfusedAnswerer(ModelAnswerer):
    """The same model with its generator switched off: the VLM's own tokens go on unfused."""

    kind = "unfused"

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        return self.session.answer_batch([self.question(record) for record in records], with_generator=False)


class BlindAnswerer(ModelAnswerer):
    """The same model with the same prompt and no video: what the words alone give away."""

    kind = "blind"

    def question(self, record: AnnotatedQuestion) -> SpatialQuestion:
        return replace(self.session.posed(record), visual=None)


class ChanceAnswerer:
    """A letter by chance; equal likelihoods, whose score is exactly the level of chance; no answer to a number.

    The letter is a function of the seed and the question.
    """

    def __init__(self, seed: int = 0):
        self.settings = {"name": "chance", "kind": "chance", "seed": seed}
        self.seed = seed

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: AnnotatedQuestion) -> RawAnswer:
        if not record.options:
            return "", None
        letter = random.Random(f"{self.seed}:{record.dataset}:{record.scene}:{record.id}").choice(record.letters)
        return letter, dict.fromkeys(record.letters, 1 / len(record.letters))


class MostFrequentAnswerer:
    """Always the most frequent right answer of the question's type, counted on a training table.

    Of equally frequent ones the smallest number or the first letter. VSI-Bench's own "frequency" row counts on the
    test questions and is therefore higher.

    Args:
        train: questions of other scenes than those to be answered, one at least.
    """

    def __init__(self, train: Sequence[AnnotatedQuestion]):
        if not train:
            raise ValueError("The most frequent answer is counted on training questions, but got none.")
        counts: dict[str, Counter] = {}
        for record in train:
            counts.setdefault(record.question_type, Counter())[record.answer] += 1
        self.answers = {name: most_frequent(counter) for name, counter in counts.items()}
        self.scenes = {(record.dataset, record.scene) for record in train}
        self.settings = {
            "name": "most frequent",
            "kind": "most_frequent",
            "answers": self.answers,
            "train": len(train),
        }

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        """As `Answerer.answer`; raises ValueError for a training scene, or a type that the training table lacks."""
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: AnnotatedQuestion) -> RawAnswer:
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


def constant_scores(questions: Iterable[Mapping]) -> dict[str, float]:
    """What an answer that ignores picture and question scores by type, category and in the macro average, in [0, 1].

    For numbers the highest score that any of the right answers reaches on these very questions; for choices the level
    of chance. The questions are those of a result file, with `question_type`, `options` and `ground_truth`.
    """
    by_type: dict[str, list[Mapping]] = {}
    for question in questions:
        by_type.setdefault(question["question_type"], []).append(question)
    averages = average((name, score) for name, rows in by_type.items() for score in best_constant_scores(name, rows))
    named = {**averages.types, **averages.categories, "macro": averages.macro}
    return {name: value for name, value in named.items() if value is not None}


def best_constant_scores(question_type: str, questions: Sequence[Mapping]) -> list[float]:
    """The score of each question of a type, for the constant answer that is best in the mean."""
    if is_choice(question_type):
        return [1 / len(question["options"]) for question in questions]
    truths = [question["ground_truth"] for question in questions]
    candidates = ([score_parsed(text, question_type, truth) for truth in truths] for text in dict.fromkeys(truths))
    return max(candidates, key=sum)
