"""Prompts that end with `<ground>`: its token, the words, and where it stands."""

from typing import Any

import torch

from .configuration_vega3d import VegaConfig
from .tokens_vega3d import checked_words, prompt_text

GROUND_TOKEN, COORD_TOKEN = "<ground>", "<coord>"
TOKENS = {"ground_token_id": GROUND_TOKEN, "coord_token_id": COORD_TOKEN}
PROMPT = "Find what is described in this scene: {expression}"


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


def checked_expression(processor: Any, expression: Any) -> str:
    """A sentence without white space around it.

    Raises ValueError for one that is empty, or that holds `<ground>` or placeholders of visuals.
    """
    kind, reserved = "a sentence that describes an object", (GROUND_TOKEN, COORD_TOKEN)
    return checked_words(processor, expression, "The expression", kind, reserved)


def ground_text(processor: Any, expression: str) -> str:
    """The prompt about one video that asks for what a sentence describes, up to `<ground>`.

    Raises ValueError as `checked_expression`.
    """
    words = checked_expression(processor, expression)
    content = [{"type": "video"}, {"type": "text", "text": PROMPT.format(expression=words)}]
    return prompt_text(processor, content, GROUND_TOKEN)


def sentences(expression: Any) -> list:
    """One sentence or several as a list; raises ValueError for what is neither, or no sentence at all."""
    found = [expression] if isinstance(expression, str) else expression
    if not isinstance(found, (list, tuple)) or not found:
        raise ValueError(f"The expression is {expression!r}, but must be a sentence, or a list of one or more.")
    return list(found)


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
