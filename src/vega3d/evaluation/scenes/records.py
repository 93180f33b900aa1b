"""What is asked about a scan, with its right answer, and what an answerer gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vega3d.configs import shown

MOST_BOXES = 10_000  # of a scene


def checked_boxes(boxes: npt.ArrayLike, place: str) -> np.ndarray:
    """float64[M, 6] of boxes cx, cy, cz, w, h, l [m], M from 0 up; `place` begins the error.

    Raises:
        ValueError: for other shapes, values that are not finite, or sizes below 0.
    """
    try:
        array = np.asarray(boxes, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: boxes are numbers cx, cy, cz, w, h, l [m], but got {shown(boxes)}.") from error
    if array.size == 0:
        return np.zeros((0, 6))
    if array.ndim != 2 or array.shape[1] != 6 or len(array) > MOST_BOXES:
        raise ValueError(
            f"{place}: boxes are [M, 6], cx, cy, cz, w, h, l [m] along the axes, M at most {MOST_BOXES}, but got "
            f"{list(array.shape)}."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(1) | ~(array[:, 3:] >= 0).all(1))
    if len(bad):
        raise ValueError(
            f"{place}: box {bad[0]} is {array[bad[0]].tolist()}, but a box has a finite centre and sizes "
            "from 0 m up, no second corner."
        )
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneRecord:
    """A question about a scan.

    Attributes:
        id: unique among the questions of a run.
        scene: place that was scanned, the unit that intervals resample: `scene0012` of the scan `scene0012_01`.
        kind: split of the benchmark that it belongs to, such as `unique`.
        prompt: words that a model is given, without placeholders of the video.
        dataset: name of the source.
        scan: name of the scan; that of the scene if it is left out.
        folder: the scan on disk; None if it is not there.
    """

    id: str
    scene: str
    kind: str
    prompt: str
    dataset: str = "scannet"
    scan: str = ""
    folder: Path | None = None

    def __post_init__(self):
        object.__setattr__(self, "scan", self.scan or self.scene)
        if not self.prompt.strip():
            raise ValueError(f"Question {self.id} has no words. Leave it out.")

    @property
    def question_type(self) -> str:
        """The kind, by the name that it has in result files."""
        return self.kind

    @property
    def order(self) -> tuple:
        """What is asked first of the questions on one scene: those on one scan one after another."""
        return (self.scan,)


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundingRecord(SceneRecord):
    """An expression, and the boxes that it describes.

    Attributes:
        expression: bare description, without the words of the prompt around it.
        boxes: float64[M, 6], proposals [m]; M is 0 where a model needs none.
        targets: float64[K, 6], true boxes [m]; K is 0 where nothing fits the description.
    """

    expression: str
    boxes: np.ndarray
    targets: np.ndarray

    def __post_init__(self):
        super().__post_init__()
        for name in ("boxes", "targets"):
            object.__setattr__(self, name, checked_boxes(getattr(self, name), f"Question {self.id}, {name}"))

    @property
    def identity(self) -> list:
        """All that its answer and score depend on, as JSON holds it."""
        return [self.id, self.dataset, self.scan, self.prompt, self.boxes.tolist(), self.targets.tolist()]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRecord(SceneRecord):
    """A question that is answered in words, or a box that is described.

    Attributes:
        answers: right answers, or captions to compare with; one at least.
        situation: where the one who asks stands; empty if nowhere.
        box: float64[6] [m], described where the prompt has `<coord>`; None if there is none, or no proposal is near
            enough to the object.
        target: float64[6] [m], true box of the object that is described; None if none is.
    """

    answers: tuple[str, ...]
    situation: str = ""
    box: np.ndarray | None = None
    target: np.ndarray | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.answers or not all(isinstance(text, str) for text in self.answers):
            raise ValueError(f"Question {self.id} has the answers {shown(self.answers)}, but needs one text at least.")
        for name in ("box", "target"):
            value: Any = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked_boxes([value], f"Question {self.id}, {name}")[0])

    @property
    def identity(self) -> list:
        """All that its answer and score depend on, as JSON holds it."""
        boxes = [None if box is None else box.tolist() for box in (self.box, self.target)]
        return [self.id, self.dataset, self.scan, self.prompt, list(self.answers), *boxes]


@dataclass(frozen=True, eq=False)
class ChosenBoxes:
    """The boxes that an answerer takes an expression to mean, none or several, the best one first.

    Attributes:
        boxes: float64[n, 6] [m].
        scores: float64[n], finite; higher is better.

    Raises:
        ValueError: if they are no boxes, or there is another number of scores.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "boxes", checked_boxes(self.boxes, "The answer"))
        count, scores = len(np.asarray(self.boxes)), np.asarray(self.scores, float)
        if scores.shape != (count,) or not np.isfinite(scores).all():
            raise ValueError(f"The answer has {count} boxes, but the scores {shown(self.scores)}.")
        object.__setattr__(self, "scores", scores)


SceneAnswer = str | ChosenBoxes


def best_proposal(scores: npt.ArrayLike) -> list[int]:
    """The place of the best of scores float[M] of proposals, as ScanRefer takes it; none of none."""
    scores = np.asarray(scores)
    return [int(scores.argmax())] if len(scores) else []


def likely_proposals(scores: npt.ArrayLike, threshold: float = 0.4, temperature: float = 0.07) -> list[int]:
    """The places of the proposals that Multi3DRefer takes, the likeliest first.

    None if "no target", the last class, has the best score. Else proposals are taken in the order of their scores
    until their probabilities, a softmax over all classes with the last one, add up to the threshold; the one that
    reaches it is taken too. All in float32, as in the official code.

    Args:
        scores: float[M + 1], the last one that of "no target".
        threshold: sum of probabilities that is enough, in (0, 1].
        temperature: by which scores are divided.
    """
    scores = np.asarray(scores, np.float32)
    if scores.argmax() == len(scores) - 1:
        return []
    shares = np.exp((scores - scores.max()) / np.float32(temperature))
    shares = (shares / shares.sum())[:-1]
    order = np.argsort(-shares, kind="stable")
    reached = np.cumsum(shares[order], dtype=np.float32) >= np.float32(threshold)
    count = int(reached.argmax()) + 1 if reached.any() else len(order)
    return order[:count].tolist()


def with_scores(boxes: np.ndarray, scores: npt.ArrayLike, places: Sequence[int]) -> ChosenBoxes:
    """The proposals float[M, 6] at these places, with their scores of float[M or M + 1]."""
    return ChosenBoxes(boxes[list(places)], np.asarray(scores, float)[list(places)])
