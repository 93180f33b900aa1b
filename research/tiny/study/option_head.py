"""Options that know whether they are right: in base and stage 1 each option of a question is told, for all arms.

A letter is one token of supervision a question; told at the end of each option, before the last layer, the language
model has one for each option. The truth is that of the letter, nothing more. The head is left behind.
"""

import string
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.tiny.study.packs import IGNORED, Prefix, ends_of

LINES_BEFORE = 3  # of `SpatialQuestion.prompt`: how the prompt begins, the question, "Options:"


def option_ends(prompt: np.ndarray, newline: int, count: int) -> np.ndarray:
    """int[count]: place of the last token of each option, such as "B. lamp", in the prompt int[L].

    Args:
        prompt: of `SpatialQuestion.prompt`.
        newline: token that ends a line, and is part of no other.
        count: of options.
    """
    return np.flatnonzero(prompt == newline)[LINES_BEFORE : LINES_BEFORE + count] - 1


def option_targets(
    prefix: Prefix,
    questions: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    truths: Sequence[Sequence[tuple[int, str]]],
    newline: int,
    length: int,
) -> np.ndarray:
    """int64[B, length]: at the end of each option 1 if it is the right one, else 0; -100 elsewhere.

    Args:
        prefix: of the packs.
        questions: as `packs.pack` takes them.
        truths: for each of them its number of options, and the right letter.
        newline: as `option_ends` takes it.
        length: of the packs.
    """
    targets = np.full((len(questions), length), IGNORED, np.int64)
    for number, (row, ends) in enumerate(zip(questions, ends_of(prefix, questions), strict=True)):
        for (prompt, answer), end, (count, letter) in zip(row, ends, truths[number], strict=True):
            if count:
                start = end + 1 - len(prompt) - len(answer)
                is_right = np.arange(count) == string.ascii_uppercase.index(letter)
                targets[number, start + option_ends(prompt, newline, count)] = is_right
    return targets


class OptionHead(nn.Module):
    """
    Args:
        width: of the language model.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Linear(width, 1)

    def loss(self, states: torch.Tensor, is_right: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy over options of float[B, L, D] with int[B, L]; 0 without options."""
        is_option = is_right != IGNORED
        logits = self.layer(self.norm(states[is_option])).float().squeeze(-1)
        wanted = is_right[is_option].float()
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / max(1, len(wanted))
