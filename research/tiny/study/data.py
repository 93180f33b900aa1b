"""The rows and frames of a split in memory: what is asked about which clip, and in which order it is trained on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from research.tiny.study.question_forms import PLAN_KINDS
from research.tiny.study.rooms import RoomShards, read_shard
from vega3d.evaluation.metrics import QUESTION_TYPES, is_choice
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.questions import SpatialQuestion
from vega3d.rooms.scene.classes import CLASSES

SENTINEL = "\x00prompt\x00"
DATASET = "rooms"
VIDEO: dict[str, str] = {"type": "video"}


class Row(NamedTuple):
    """A question about a clip, and its answer."""

    id: str  # unique in its split
    scene: str  # name of the clip
    clip: int  # counted within the split
    kind: str  # question type, or one of `question_forms.PLAN_KINDS` and `rows.TALK_KINDS`
    question: str
    options: tuple[str, ...]
    answer: str  # a letter or a number as text; of `PLAN_KINDS` the words
    words: str  # with what the answer stands on
    is_plain: bool = False  # whether it is asked as people type it

    @property
    def prompt(self) -> str:
        """VSI-Bench's prompt for its questions, and for choices; the bare words for the others."""
        if self.kind in PLAN_KINDS or (self.is_plain and not self.options):
            return self.question
        return SpatialQuestion(None, self.question, self.options, is_numeric=not is_choice(self.kind)).prompt


class SplitData:
    """The clips of a split with the rows of some kinds, from the shards that are there.

    Attributes:
        rows: of all clips, clip after clip.
        asked: for each clip the numbers of its rows.
        plans: for each clip its floor plan as text.
        expressions: for each clip its rows of the table `grounding` of a data set of rooms.
        proposals: for each clip those of the table `proposals`.
    """

    def __init__(self, shards: RoomShards, kinds: Sequence[str]):
        self.shards = shards
        self.rows: list[Row] = []
        self.asked: list[list[int]] = []
        self.plans: list[str] = []
        self.expressions: list[list[dict]] = []
        self.proposals: list[list[dict]] = []
        self._places: list[tuple[int, int]] = []
        self._arrays: list[list[np.ndarray]] = []
        for number in range(len(shards)):
            *arrays, rows_file = shards.files(number)
            if not rows_file.is_file():
                raise ValueError(f"{rows_file} is not there. Make the rooms of {shards.split!r} first.")
            self._arrays.append([np.load(file, mmap_mode="r") for file in arrays])
            for place, clip in enumerate(read_shard(rows_file, shards)["clips"]):
                self._add_clip(clip, kinds)
                self._places.append((number, place))
        if not self.rows:
            raise ValueError(f"The split {shards.split!r} has no row of the kinds {', '.join(kinds)}.")

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._places)

    def _add_clip(self, clip: dict, kinds: Sequence[str]) -> None:
        start = len(self.rows)
        for number, row in enumerate(clip["rows"]):
            if row["type"] in kinds:
                name = f"{clip['scene']}_{number:03d}"
                texts = row["question"], tuple(row["options"]), row["answer"], row["words"]
                self.rows.append(Row(name, clip["scene"], len(self.asked), row["type"], *texts, row["is_plain"]))
        self.asked.append(list(range(start, len(self.rows))))
        self.plans.append(clip["plan"])
        self.expressions.append(clip["grounding"])
        self.proposals.append(clip["proposals"])

    def frames(self, clips: Sequence[int]) -> np.ndarray:
        """uint8[B, T, H, W, 3]"""
        return self._stacked(0, clips)

    def labels(self, clips: Sequence[int]) -> np.ndarray:
        """uint8[B, T, h, w] of `tower.patch_labels`."""
        return self._stacked(1, clips)

    def points(self, clips: Sequence[int], temporal: int) -> np.ndarray:
        """float16[B, N, 5] of `points.patch_points`, for tokens that see `temporal` frames, in the first of these."""
        points = self.all_points(clips)[:, ::temporal]
        return points.reshape(len(points), -1, points.shape[-1])

    def token_labels(self, clips: Sequence[int], temporal: int) -> np.ndarray:
        """uint8[B, N]: labels of the first of the `temporal` frames that each visual token sees."""
        return self.labels(clips)[:, ::temporal].reshape(len(clips), -1)

    def all_points(self, clips: Sequence[int]) -> np.ndarray:
        """float16[B, T, h, w, 5] of `points.patch_points`, of all frames."""
        return self._stacked(2, clips)

    def positions(self, clips: Sequence[int]) -> np.ndarray:
        """float32[B, N, 3], where visual tokens are in the world [m]."""
        return self._stacked(3, clips).astype(np.float32) / 1000

    def _stacked(self, kind: int, clips: Sequence[int]) -> np.ndarray:
        places = [self._places[clip] for clip in clips]
        return np.stack([self._arrays[shard][kind][place] for shard, place in places])

    def records(self) -> list[AnnotatedQuestion]:
        """The rows as the evaluation takes them; `visual` is the number of the clip."""
        return [
            AnnotatedQuestion(
                id=row.id,
                dataset=DATASET,
                scene=row.scene,
                question_type=row.kind,
                question=row.question,
                answer=row.answer,
                options=row.options,
                visual=row.clip,
            )
            for row in self.rows
            if row.kind in QUESTION_TYPES and not row.is_plain
        ]


class Words:
    """The token ids of rows: what follows the visual tokens up to the answer, and the answer with its end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.end = str(tokenizer.eos_token)
        self.before, self.after = self._around([VIDEO])
        self.before_text, _ = self._around([])

    def _around(self, parts: list[dict[str, str]]) -> list[str]:
        """What the chat template writes before and after a prompt."""
        content: list[dict[str, Any]] = [*parts, {"type": "text", "text": SENTINEL}]
        messages = [{"role": "user", "content": content}]
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(rendered).split(SENTINEL)

    def prompts(self, prompts: Sequence[str]) -> list[np.ndarray]:
        return self.ids([f"{prompt}{self.after}" for prompt in prompts])

    def answers(self, answers: Sequence[str]) -> list[np.ndarray]:
        return self.ids([f"{answer}{self.end}" for answer in answers])

    def names(self) -> list[np.ndarray]:
        """Token ids of the name of each class, as it stands within a sentence."""
        return self.ids([f" {name}" for name in CLASSES])

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        # Without masks and offsets it takes half the time.
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts))
        return [np.array(one.ids, np.int32) for one in encoded]
