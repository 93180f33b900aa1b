"""The rows and frames of a split in memory: what is asked about which picture, and in which order it is trained on."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from research.tiny.study.cells import cell_marks
from research.tiny.study.map_rows import MAP_KINDS, OnMap
from research.tiny.study.packs import IGNORED
from research.tiny.study.rooms import RoomShards, read_shard
from vega3d.evaluation.metrics import is_choice
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.questions import SpatialQuestion
from vega3d.rooms.questions.marks import draw_marks

SENTINEL = "\x00prompt\x00"
DATASET = "rooms"
CLOSE_UP_FRAMES = 2  # what one visual token sees
CLOSE_UP_EDGE, CLOSE_UP_MARGIN = 24, 1.2  # least edge [px] of what a close-up shows; its edge, times that of the box


@dataclass(frozen=True)
class Visual:
    """A clip as the model sees it.

    Attributes:
        clip: counted within the split.
        frame: of the marks or the close-up.
        marks: boxes that are drawn into it.
        close_up: box that fills the frame, alone, in place of the walk.
    """

    clip: int
    frame: int | None
    marks: tuple[tuple[int, int, int, int], ...]
    close_up: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Row:
    """
    Args:
        id: unique in its split.
        scene: name of the clip.
        visual: number within the split of the visual that the row is about.
        is_marked: whether it is about marks or a close-up, so that it cannot be asked about another visual.
        kind: question type, or one of `stage0_rows.KINDS` or `map_rows.MAP_KINDS`.
        question: text.
        options: texts of the choices.
        answer: a letter, a number as text, or words.
    """

    id: str
    scene: str
    visual: int
    is_marked: bool
    kind: str
    question: str
    options: tuple[str, ...]
    answer: str

    def prompt(self, stage: int) -> str:
        """VSI-Bench's prompt for its questions; the bare words in stage 0 and for `map_rows`."""
        is_bare = stage == 0 or self.kind in MAP_KINDS
        if is_bare:
            return self.question
        return SpatialQuestion(None, self.question, self.options, is_numeric=not is_choice(self.kind)).prompt


def shown(walk: np.ndarray, visual: Visual) -> np.ndarray:
    """uint8[T, H, W, 3]: the frames of a walk with the marks drawn in, or the close-up for T = 2."""
    if visual.close_up is not None:
        return np.stack([enlarged(walk[visual.frame], visual.close_up)] * CLOSE_UP_FRAMES)
    frames = np.array(walk)
    if visual.marks and visual.frame is not None:
        frames[visual.frame] = draw_marks(frames[visual.frame], visual.marks)
    return frames


def enlarged(frame: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """uint8[H, H, 3]: the square around a box of a square frame, as large as the frame."""
    edge, (left, top, right, bottom) = len(frame), box
    side = min(edge, max(CLOSE_UP_EDGE, CLOSE_UP_MARGIN * max(right - left, bottom - top)))
    x, y = (min(max((first + last - side) / 2, 0), edge - side) for first, last in ((left, right), (top, bottom)))
    image = Image.fromarray(frame).resize((edge, edge), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    return np.asarray(image)


class SplitData:
    """
    Args:
        shards: that are there.
        stage: 0 or 1; rows of the other are left out, and visuals about which nothing is asked.
        kinds: rows to keep; all of the stage by default.

    Attributes:
        visuals: of the split.
        rows: of the stage.
        asked: for each visual, the rows that are about it, or about its clip without marks.
    """

    def __init__(self, shards: RoomShards, stage: int, kinds: Sequence[str] | None = None):
        self.stage = stage
        self.frames: list[np.ndarray] = []
        self.cells: list[np.ndarray] = []
        self.points: list[np.ndarray] = []
        self.places: list[tuple[int, int]] = []
        self.maps: list[dict[str, OnMap]] = []
        self.visuals: list[Visual] = []
        self.rows: list[Row] = []
        for number in range(len(shards)):
            frames_file, rows_file = shards.files(number)
            if not rows_file.is_file():
                raise ValueError(f"{rows_file} is not there. Make the rooms of {shards.split!r} first.")
            self.frames.append(np.load(frames_file, mmap_mode="r"))
            self.cells.append(np.load(shards.cells_file(number), mmap_mode="r"))
            self.points.append(np.load(shards.points_file(number), mmap_mode="r"))
            for place, clip in enumerate(read_shard(rows_file, shards)["clips"]):
                self._add_clip(clip, kinds)
                self.places.append((number, place))
                self.maps.append({name: OnMap(*values) for name, values in clip["map"].items()})
        self.asked = self._asked()
        if not self.rows:
            raise ValueError(f"The split {shards.split!r} has no row of stage {stage} and the kinds {kinds}.")

    def _add_clip(self, clip: dict, kinds: Sequence[str] | None) -> None:
        rows = [row for row in clip["rows"] if row["stage"] == self.stage and (not kinds or row["type"] in kinds)]
        kept = {0} | {row["visual"] for row in rows}
        numbers = {}
        for number, visual in enumerate(clip["visuals"]):
            if number in kept:
                numbers[number] = len(self.visuals)
                marks = tuple(tuple(mark) for mark in visual["marks"])
                close_up = tuple(visual["close_up"]) if "close_up" in visual else None
                self.visuals.append(Visual(len(self.places), visual["frame"], marks, close_up))
        for number, row in enumerate(rows):
            self.rows.append(
                Row(
                    f"{clip['scene']}_{self.stage}{number:03d}",
                    clip["scene"],
                    numbers[row["visual"]],
                    row["visual"] > 0,
                    row["type"],
                    row["question"],
                    tuple(row["options"]),
                    row["answer"],
                )
            )

    def _asked(self) -> list[list[int]]:
        plain, marked = defaultdict(list), defaultdict(list)
        for number, row in enumerate(self.rows):
            if row.is_marked:
                marked[row.visual].append(number)
            else:
                plain[self.visuals[row.visual].clip].append(number)
        return [
            [*marked[number], *([] if visual.close_up else plain[visual.clip])]
            for number, visual in enumerate(self.visuals)
        ]

    def frames_of(self, visuals: Sequence[int]) -> np.ndarray:
        """uint8[B, T, H, W, 3], as `shown`; close-ups and walks do not go together."""
        return np.stack([shown(self._of_clip(self.frames, number), self.visuals[number]) for number in visuals])

    def cells_of(self, visuals: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """int64[B, T, h, w] each: classes, and marks, -100 in frames without (`cells.CellHead`)."""
        classes = np.stack([self._of_clip(self.cells, number) for number in visuals]).astype(np.int64)
        marks = np.full_like(classes, IGNORED)
        for place, number in enumerate(visuals):
            visual = self.visuals[number]
            if visual.marks and visual.frame is not None:
                marks[place, visual.frame] = cell_marks(visual.marks, *classes.shape[2:])
        return classes, marks

    def points_of(self, visuals: Sequence[int], temporal: int) -> np.ndarray:
        """int64[B, N, 4] of `point_map.cell_points`, for tokens that see `temporal` frames, in the first of these."""
        points = np.stack([self._of_clip(self.points, number)[::temporal] for number in visuals])
        return points.reshape(len(points), -1, points.shape[-1]).astype(np.int64)

    def _of_clip(self, shards: list[np.ndarray], visual: int) -> np.ndarray:
        shard, place = self.places[self.visuals[visual].clip]
        return shards[shard][place]

    def records(self) -> list[AnnotatedQuestion]:
        """The rows of stage 1 as the evaluation takes them; `visual` is the number of the visual."""
        return [
            AnnotatedQuestion(
                id=row.id,
                dataset=DATASET,
                scene=row.scene,
                question_type=row.kind,
                question=row.question,
                answer=row.answer,
                options=row.options,
                visual=row.visual,
                frame=self.visuals[row.visual].frame,
                marks=self.visuals[row.visual].marks,
            )
            for row in self.rows
        ]


class Words:
    """The token ids of rows: what follows the visual tokens up to the answer, and the answer with its end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        content: list[dict[str, Any]] = [{"type": "video"}, {"type": "text", "text": SENTINEL}]
        messages = [{"role": "user", "content": content}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        self.before, self.after = str(rendered).split(SENTINEL)
        self.tokenizer = tokenizer
        self.end = str(tokenizer.eos_token)

    def prompts(self, prompts: Sequence[str]) -> list[np.ndarray]:
        return self._ids([f"{prompt}{self.after}" for prompt in prompts])

    def answers(self, answers: Sequence[str]) -> list[np.ndarray]:
        return self._ids([f"{answer}{self.end}" for answer in answers])

    def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        # Without masks and offsets it takes half the time.
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts))
        return [np.array(one.ids, np.int64) for one in encoded]


class Batches:
    """What is trained on in each step, as a function of the seed alone.

    Args:
        data: of the split.
        seed: of the order.
        visuals_per_step: visuals in a batch; every visual comes once before any comes again.
        questions_per_visual: most rows asked about each; the marked ones first, then the kinds in turn.
    """

    def __init__(self, data: SplitData, seed: int, visuals_per_step: int, questions_per_visual: int):
        self.data, self.seed = data, seed
        self.size, self.questions = visuals_per_step, questions_per_visual
        self.usable = np.array([number for number, rows in enumerate(data.asked) if rows])
        self._orders: dict[int, np.ndarray] = {}

    def visuals(self, step: int) -> list[int]:
        places = range(step * self.size, (step + 1) * self.size)
        return [int(self._order(place // len(self.usable))[place % len(self.usable)]) for place in places]

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:  # several threads may come here; each makes the same
            random = np.random.default_rng([self.seed, self.data.stage, 0, epoch])
            order = self.usable[random.permutation(len(self.usable))]
            self._orders = {epoch: order}
        return order

    def rows(self, step: int) -> list[list[int]]:
        """Numbers of the rows of each visual of the step."""
        random = np.random.default_rng([self.seed, self.data.stage, 1, step])
        return [self._chosen(visual, random) for visual in self.visuals(step)]

    def _chosen(self, visual: int, random: np.random.Generator) -> list[int]:
        asked = self.data.asked[visual]
        by_kind: dict[str, list[int]] = {}
        for place in random.permutation(len(asked)).tolist():
            row = asked[place]
            kind = "" if self.data.rows[row].is_marked else self.data.rows[row].kind
            by_kind.setdefault(kind, []).append(row)
        chosen = by_kind.pop("", [])
        turns = max((len(rows) for rows in by_kind.values()), default=0)
        chosen += [rows[turn] for turn in range(turns) for rows in by_kind.values() if turn < len(rows)]
        return chosen[: self.questions]
