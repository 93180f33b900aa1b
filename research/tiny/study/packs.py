"""Many questions about one visual in one sequence: the visual tokens once, then the questions, blind to each other.

    [<user> visual tokens][question 1, answer 1][question 2, answer 2] ...

The language model is causal and the visual tokens come first, so each question sees what it would see alone, at the
same positions: a pack of Q questions gives the logits of Q prompts for a fraction of the work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vega3d.modeling.inputs_vega3d import IGNORED

MULTIPLE = 32  # lengths are rounded up to it
PADDING = -1


@dataclass(frozen=True)
class Prefix:
    """What begins every pack of a video of this size.

    Attributes:
        ids: int[P], with placeholders where visual tokens go.
        positions: int[3, P], of the rotary embedding.
        following: position of the first token after it.
        first: place of the first visual token.
        visual_tokens: N.
        grid: (t, h, w) of the visual tokens.
    """

    ids: np.ndarray
    positions: np.ndarray
    following: int
    first: int
    visual_tokens: int
    grid: tuple[int, int, int]


@dataclass
class Pack:
    """
    Attributes:
        ids: int[B, L].
        positions: int[3, B, L].
        segments: int[B, L]; 0 the prefix, 1, 2 ... the questions, -1 padding.
        labels: int[B, L], the token itself where it is part of an answer, -100 elsewhere.
        start: P, length of the prefix.
        targets: int[B, L, 3] of `map_head.map_targets`; -100 where there are none.
        is_right: int[B, L] of `option_head.option_targets`; -100 where there are none.
        ways: int[B, L, 2] of `relation_head.relation_targets`; -100 where there are none.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor
    start: int
    targets: torch.Tensor
    is_right: torch.Tensor
    ways: torch.Tensor

    def to(self, device: torch.device) -> "Pack":
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in vars(self).items()
        }
        return Pack(**moved)

    def mask(self) -> torch.Tensor:
        """bool[B, 1, L - P, L]: a token after the prefix sees the prefix and its own question up to itself."""
        length = self.segments.shape[1]
        keys, queries = self.segments[:, None, :], self.segments[:, self.start :, None]
        causal = torch.ones(length - self.start, length, dtype=torch.bool, device=self.ids.device).tril(self.start)
        return (((keys == 0) | (keys == queries)) & causal).unsqueeze(1)


def pack(prefix: Prefix, questions: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], pad: int = 0) -> Pack:
    """
    Args:
        prefix: of every row.
        questions: for each of B visuals, token ids of (prompt, answer) of its questions; an answer may be empty.
        pad: token of the padding.
    """
    lengths = [sum(len(prompt) + len(answer) for prompt, answer in row) for row in questions]
    start = len(prefix.ids)
    length = -(-(start + max(lengths)) // MULTIPLE) * MULTIPLE
    ids = np.full((len(questions), length), pad, np.int64)
    segments = np.full_like(ids, PADDING)
    labels = np.full_like(ids, IGNORED)
    positions = np.zeros((3, *ids.shape), np.int64)
    ids[:, :start], segments[:, :start] = prefix.ids, 0
    positions[:, :, :start] = prefix.positions[:, None]
    for number, row in enumerate(questions):
        place = start
        for segment, (prompt, answer) in enumerate(row, start=1):
            middle, end = place + len(prompt), place + len(prompt) + len(answer)
            ids[number, place:middle], ids[number, middle:end] = prompt, answer
            labels[number, middle:end] = answer
            segments[number, place:end] = segment
            positions[:, number, place:end] = prefix.following + np.arange(end - place)
            place = end
    tensors = [torch.from_numpy(value) for value in (ids, positions, segments, labels)]
    targets, is_right, ways = (torch.full(shape, IGNORED) for shape in ((*ids.shape, 3), ids.shape, (*ids.shape, 2)))
    return Pack(tensors[0], tensors[1], tensors[2], tensors[3], start, targets, is_right, ways)


def starts_of(
    prefix: Prefix, questions: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]
) -> Iterator[tuple[int, int, int]]:
    """For each question the number of its visual, its number there, and the place of its first token in the pack."""
    for visual, row in enumerate(questions):
        start = len(prefix.ids)
        for number, (prompt, answer) in enumerate(row):
            yield visual, number, start
            start += len(prompt) + len(answer)


def ends_of(prefix: Prefix, questions: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> list[list[int]]:
    """For each visual the place of the last token of each of its questions."""
    return [
        (len(prefix.ids) - 1 + np.cumsum([len(prompt) + len(answer) for prompt, answer in row])).tolist()
        for row in questions
    ]
