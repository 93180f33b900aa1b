"""What a model answers, what must be said with it, and the check that its logits are numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.questions import KnownQuestions, SpatialQuestion

NARROW = 1024  # channels; the smallest Qwen-VL has 2048


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question; of one that is still being made, as far as it goes.

    Attributes:
        text: the answer; for a choice its letter and text.
        notice: what the model's config says about itself with every answer, such as "untrained", and whether the
            question is one that it was not trained on.
        options: probability of each letter among the options, or None for an open question.
        frame_seconds: times of the frames used [s], each that of a frame of the video, so their distances differ by up
            to a frame's; frame numbers where the source has no times; None for an image.
        seconds: time taken [s], from the question to the answer, without loading the model; None as long as the
            answer is being made.
        gates: float[t, h, w] on the token grid, if asked for and the fusion has a gate for each token.
        reason: what a choice or a number stands on, in the words of a model with `answers_in_words`; else None.
    """

    text: str = ""
    notice: str | None = None
    options: dict[str, float] | None = None
    frame_seconds: list[float] | None = None
    seconds: float | None = None
    gates: torch.Tensor | None = None
    reason: str | None = None

    def to_dict(self) -> dict:
        """Plain values for JSON, without the gates."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "gates"}


def notices(config: VegaConfig, question: SpatialQuestion) -> list[str]:
    """What to say with an answer: the model's notice, and why this answer in particular may mean nothing."""
    known = KnownQuestions.from_config(config.questions)
    note = None if known is None else known.note(question)
    width = config.get_text_config().hidden_size
    rounded = None
    quantised = config.to_dict().get("quantization_config") or {}
    if quantised.get("load_in_4bit") and width < NARROW:
        rounded = f"A language model of {width} channels loses its words in 4 bits. Ask it without."
    return [text for text in (config.notice, note, rounded) if text]


def letter_probabilities(
    logits: torch.Tensor, letters: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Probability of each option letter, such as those of "ABC", as the next token, among the letters.

    Raises:
        ValueError: if the tokenizer has no single token for a letter, or the logits, float[V], are not finite.
    """
    check_logits(logits)
    tokens = [tokenizer.encode(letter, add_special_tokens=False) for letter in letters]
    if any(len(token) != 1 for token in tokens):
        raise ValueError(
            f"The tokenizer splits an option letter of {letters} into several tokens; ask without options."
        )
    chosen = logits.float()[[token[0] for token in tokens]]
    check_logits(chosen)
    return dict(zip(letters, chosen.softmax(-1).tolist(), strict=True))


def check_logits(logits: torch.Tensor) -> None:
    """Raises ValueError for logits float[..., V] that no answer can be read from.

    Minus infinity forbids a token, which is fair for some of them; NaN and infinity come of a broken model.
    """
    largest = logits.amax(-1)  # NaN, if one of them is
    if not bool(largest.isfinite().all()):
        raise ValueError(
            "The model's logits are NaN or infinite, so there is no answer. Load it in float32 or bfloat16, and check "
            "its weights."
        )


class CheckedLogits(LogitsProcessor):
    """Stops `generate` where `check_logits` raises: the likeliest token of NaN is some token, too."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        check_logits(scores)
        return scores
