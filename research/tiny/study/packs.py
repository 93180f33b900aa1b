"""Many questions about one clip in one sequence: the visual tokens once, then the questions, blind to each other.

    [<user> visual tokens][question 1, answer 1][question 2, answer 2] ...

The language model is causal and the visual tokens come first, so each question sees what it would see alone, at the
same positions: a pack of Q questions gives the logits of Q prompts for a fraction of the work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from research.tiny.study.data import SplitData, Words
from research.tiny.study.question_forms import CELL, FIRST_FRAME, PLACE
from vega3d.modeling.inputs_vega3d import IGNORED

PADDING = -1
# Types whose answer follows from the floor plan, so that they can be asked without pictures.
PLANNED = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard", "route_planning")
SHORT = dict.fromkeys((PLACE, FIRST_FRAME, CELL), 3)  # rows of kinds with few tokens that are asked in a turn
Asked = tuple[np.ndarray, np.ndarray]  # token ids of a prompt and of its answer, which may be empty
NOTHING = np.empty(0, np.int64)  # the answer to what is not answered in words
First = Callable[[int, int, Sequence[int]], list[list[Asked]]]  # seed, step, clips -> what is asked of each at first


@dataclass(frozen=True)
class Prefix:
    """What begins every pack: of clips of one size their tokens, or what stands before a text."""

    ids: np.ndarray  # int[P], with placeholders where visual tokens go
    positions: np.ndarray  # int[3, P], of the rotary embedding
    following: int  # position of the first token after it
    first: int = 0  # place of the first visual token
    visual_tokens: int = 0  # N
    grid: tuple[int, int, int] = (0, 0, 0)  # (t, h, w) of the visual tokens


def text_prefix(words: Words) -> Prefix:
    """What begins packs of rows without pictures."""
    (ids,) = words.ids([words.before_text])
    return Prefix(ids, np.broadcast_to(np.arange(len(ids)), (3, len(ids))), len(ids))


class Pack(NamedTuple):
    """Tensors of B sequences of one length L, of which the first P tokens are the prefix."""

    ids: torch.Tensor  # int[B, L]
    positions: torch.Tensor  # int[3, B, L]
    segments: torch.Tensor  # int[B, L]: 0 the prefix, 1, 2 ... the questions, -1 padding
    labels: torch.Tensor  # int[B, L], the token itself where it is part of an answer, -100 elsewhere

    def to(self, device: torch.device) -> "Pack":
        return Pack(*(value.to(device, non_blocking=True) for value in self))


def pack(prefix: Prefix, questions: Sequence[Sequence[Asked]], length: int, pad: int = 0) -> Pack:
    """Packs of the questions about each of B clips; raises ValueError if they are longer than `length`."""
    start = len(prefix.ids)
    ids = np.full((len(questions), length), pad, np.int64)
    segments = np.full_like(ids, PADDING)
    labels = np.full_like(ids, IGNORED)
    positions = np.zeros((3, *ids.shape), np.int64)
    ids[:, :start], segments[:, :start] = prefix.ids, 0
    positions[:, :, :start] = prefix.positions[:, None]
    for number, row in enumerate(questions):
        if not row:
            continue
        asked, sizes = np.array([[len(prompt), len(answer)] for prompt, answer in row]).T
        sizes = asked + sizes
        end = start + int(sizes.sum())
        if end > length:
            raise ValueError(f"The questions have {end} tokens, but a pack {length}. Ask fewer.")
        there = (number, slice(start, end))
        ids[there] = np.concatenate([tokens for question in row for tokens in question])
        segments[there] = np.repeat(np.arange(1, len(row) + 1), sizes)
        places = np.arange(end - start) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in the question of each token
        labels[there] = np.where(places < np.repeat(asked, sizes), IGNORED, ids[there])
        positions[:, number, start:end] = prefix.following + places
    return Pack(*(torch.from_numpy(value) for value in (ids, positions, segments, labels)))


def sees(segments: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Whether a token of packs int[B, L] sees another: the prefix, and its own question up to itself.

    A function of numbers of pack, head, token and the other token, as flex attention takes it.
    """

    def answer(pack: torch.Tensor, _: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        other = segments[pack, key]
        return (key <= query) & ((other == 0) | (other == segments[pack, query]))

    return answer


def pack_mask(segments: torch.Tensor, start: int) -> torch.Tensor:
    """bool[B, 1, L - P, L]: what the tokens after the prefix of P see."""
    count, length = segments.shape
    packs, tokens = (torch.arange(size, device=segments.device) for size in (count, length))
    return sees(segments)(packs[:, None, None], None, tokens[start:, None], tokens).unsqueeze(1)


@dataclass(frozen=True)
class PackSizes:
    """How much a step sees."""

    clips: int = 16  # packs of a step
    length: int = 2560  # tokens of a pack, visual ones included
    text_packs: int = 8  # packs of rows without pictures
    text_length: int = 1024  # their tokens


class PackMaker:
    """The packs of each step of a training, as a function of the seed and the number of the step alone.

    Every clip comes once before any comes again; of each are asked as many rows as fit behind `first`, its kinds in
    turn. Rows without pictures have the floor plan of a clip in words before the question.
    """

    def __init__(
        self,
        data: SplitData,
        words: Words,
        prefix: Prefix,
        sizes: PackSizes,
        in_words: bool,
        seed: int,
        first: First | None = None,
    ):
        self.data, self.prefix, self.sizes, self.first = data, prefix, sizes, first
        self.text = text_prefix(words)
        self.pad = words.tokenizer.pad_token_id
        answers = words.answers([row.words if in_words else row.answer for row in data.rows])
        self.asked = list(zip(words.prompts([row.prompt for row in data.rows]), answers, strict=True))
        self.planned = [number for number, row in enumerate(data.rows) if row.kind in PLANNED and not row.is_plain]
        self.lengths = [len(prompt) + len(answer) for prompt, answer in self.asked]
        self.plans = words.ids([f"{plan}.\n" for plan in data.plans])
        self.seeded(seed)

    def seeded(self, seed: int) -> "PackMaker":
        """Takes the order of another seed; the rows' tokens stay."""
        self.seed, self._epoch = seed, (-1, np.empty(0, int))
        return self

    def __call__(self, step: int) -> tuple[list[int], Pack, Pack, list[str]]:
        """Clips of the step, a pack of each, packs of rows without pictures, and the ids of the rows."""
        random = np.random.default_rng([self.seed, 1, step])
        clips = self.clips(step)
        first = self.first(self.seed, step, clips) if self.first is not None else [[] for _ in clips]
        room = self.sizes.length - len(self.prefix.ids)
        rooms = [room - sum(len(prompt) for prompt, _ in asked) for asked in first]
        chosen = [self._fitting(clip, left, random) for clip, left in zip(clips, rooms, strict=True)]
        rows = [[*asked, *(self.asked[row] for row in rows)] for asked, rows in zip(first, chosen, strict=True)]
        seen = pack(self.prefix, rows, self.sizes.length, self.pad)
        texts = [self._text_rows(random) for _ in range(self.sizes.text_packs if self.planned else 0)]
        read = pack(self.text, texts, self.sizes.text_length, self.pad)
        return clips, seen, read, [self.data.rows[row].id for rows in chosen for row in rows]

    def clips(self, step: int) -> list[int]:
        places = range(step * self.sizes.clips, (step + 1) * self.sizes.clips)
        return [int(self._order(place // len(self.data))[place % len(self.data)]) for place in places]

    def _order(self, epoch: int) -> np.ndarray:
        known, order = self._epoch
        if known != epoch:  # several threads may come here; each makes the same
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.data))
            self._epoch = epoch, order
        return order

    def _fitting(self, clip: int, room: int, random: np.random.Generator) -> list[int]:
        """Rows of a clip, its kinds in turn, as many as fit into so many tokens."""
        by_kind: dict[str, list[int]] = {}
        for place in random.permutation(len(self.data.asked[clip])).tolist():
            row = self.data.asked[clip][place]
            by_kind.setdefault(self.data.rows[row].kind, []).append(row)
        turns = max((len(rows) for rows in by_kind.values()), default=0)
        counts = [(rows, SHORT.get(kind, 1)) for kind, rows in by_kind.items()]
        chosen = []
        for row in (row for turn in range(turns) for rows, n in counts for row in rows[turn * n : (turn + 1) * n]):
            if self.lengths[row] <= room:
                chosen.append(row)
                room -= self.lengths[row]
        return chosen

    def _text_rows(self, random: np.random.Generator) -> list[Asked]:
        """Rows of clips drawn at random, each with the floor plan before it, as many as fit."""
        room = self.sizes.text_length - len(self.text.ids)
        rows: list[Asked] = []
        while True:
            row = self.planned[random.integers(len(self.planned))]
            prompt, answer = self.asked[row]
            prompt = np.concatenate([self.plans[self.data.rows[row].clip], prompt])
            room -= len(prompt) + len(answer)
            if room < 0:
                return rows
            rows.append((prompt, answer))
