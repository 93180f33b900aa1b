"""A question about the space that a video shows, and the prompt it becomes (VSI-Bench's wording)."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

PRE_PROMPT = "These are frames of a video."
CHOICE_POST_PROMPT = "Answer with the option's letter from the given choices directly."
NUMERIC_POST_PROMPT = "Please answer the question using a single word or phrase."
Mark = tuple[int, int, int, int]


@dataclass(frozen=True)
class SpatialQuestion:
    """
    Args:
        visual: a video or an image, as `VegaProcessor` takes it (path, frames, clip).
        question: text.
        options: texts of the choices, without letters; empty for an open question.
        is_image: whether `visual` is one image.
        is_numeric: whether the answer is a number, which VSI-Bench's prompt asks for in a way of its own.
        answer: the right one, a letter or a number as text; empty if it is not known.
        question_type: name of the type in its benchmark; empty if it has none.
        frame: number of the frame of the video that the marks are to be drawn on.
        marks: left, top, right, bottom [px] of the boxes A, B, ... that the question is about.

    Raises:
        ValueError: if there is no question, or one option, or more options than letters.
    """

    visual: Any
    question: str
    options: Sequence[str] = ()
    is_image: bool = False
    is_numeric: bool = False
    answer: str = ""
    question_type: str = ""
    frame: int | None = None
    marks: Sequence[Mark] = ()

    def __post_init__(self):
        if not isinstance(self.question, str):
            raise ValueError(f"The question is {self.question!r}, but must be text.")
        if not self.question.strip():
            raise ValueError("The question is empty. Ask something about the scene.")
        if len(self.options) == 1 or len(self.options) > len(string.ascii_uppercase):
            raise ValueError(
                f"A question has 2 to {len(string.ascii_uppercase)} options, but got {len(self.options)}: "
                f"{list(self.options)}. Leave them out for an open question."
            )

    @property
    def letters(self) -> str:
        return string.ascii_uppercase[: len(self.options)]

    @property
    def prompt(self) -> str:
        pre = [] if self.is_image else [PRE_PROMPT]
        if self.is_numeric:
            return "\n".join([*pre, self.question, NUMERIC_POST_PROMPT])
        if not self.options:
            return self.question
        lines = [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return "\n".join([*pre, self.question, "Options:", *lines, CHOICE_POST_PROMPT])

    def messages(self) -> list[dict]:
        """Chat messages for `VegaProcessor.apply_chat_template`."""
        kind = "image" if self.is_image else "video"
        content = [{"type": kind, kind: self.visual}, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": content}]


def letter_probabilities(logits: torch.Tensor, letters: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Probability of each option letter as the next token, among the letters.

    Args:
        logits: float[V], of the next token.
        letters: of the options.
        tokenizer: of the model.

    Raises:
        ValueError: if the tokenizer has no single token for a letter, or logits are not finite.
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


def checked_logits() -> LogitsProcessorList:
    """For `generate(logits_processor=...)`."""
    return LogitsProcessorList([CheckedLogits()])
