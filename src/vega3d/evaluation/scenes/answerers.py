"""What answers questions about scans: the interface, and baselines without a model: the best, by chance, and blind."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vega3d.evaluation.answerers import most_frequent
from vega3d.evaluation.rules import UNIQUE_OR_MULTIPLE
from vega3d.evaluation.scenes.matching import OVERLAPS, matched_pairs
from vega3d.evaluation.scenes.records import (
    ChosenBoxes,
    GroundingRecord,
    SceneAnswer,
    SceneRecord,
    TextRecord,
    best_proposal,
    likely_proposals,
    with_scores,
)
from vega3d.evaluation.scenes.tables import GROUNDING_BENCHMARKS

BASELINES = ("chance", "blind", "oracle")


class SceneAnswerer(Protocol):
    """What is evaluated.

    Attributes:
        settings: plain values for the result file, with a `name`; all that its answers depend on. A run is continued
            only with the same settings.
    """

    settings: dict

    def answer(self, records: Sequence[SceneRecord]) -> list[SceneAnswer]:
        """For each question of a batch the chosen boxes, of a `GroundingRecord`, or text, of a `TextRecord`.

        Questions about one scan come one after another. An answer must not depend on other questions, their order or
        the size of the batch. A caption whose record has no box counts as empty, whatever it says.
        """
        ...


class OracleAnswerer:
    """The right answer, as far as the proposals allow it: the ceiling of what any model can reach on them.

    Each target gets the proposal that overlaps it most, one for each; without proposals the target itself.
    """

    def __init__(self) -> None:
        self.settings = {"name": "oracle", "kind": "oracle"}

    def answer(self, records: Sequence[SceneRecord]) -> list[SceneAnswer]:
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: SceneRecord) -> SceneAnswer:
        if isinstance(record, TextRecord):
            return record.answers[0]
        assert isinstance(record, GroundingRecord)
        boxes = record.boxes if len(record.boxes) else record.targets
        places, _, overlaps = matched_pairs(boxes, record.targets)
        order = np.argsort(-overlaps, kind="stable")
        order = order[overlaps[order] >= OVERLAPS[0]]
        return ChosenBoxes(boxes[places[order]], overlaps[order])


class RandomAnswerer:
    """Proposals with random scores, and the answer to another question of the same kind, drawn by chance.

    Proposals are taken as Multi3DRefer takes them where no object or several may be meant. Texts are as frequent as
    right ones are, and score what knowing their frequencies is worth. Each answer is a function of the seed and the
    question.

    Args:
        records: all questions, from which texts are drawn.
        seed: of all draws.
    """

    def __init__(self, records: Sequence[SceneRecord], seed: int = 0):
        self.settings = {"name": "chance", "kind": "chance", "seed": seed}
        self.seed = seed
        self.answers: dict[str, list[str]] = {}
        for record in records:
            if isinstance(record, TextRecord):
                self.answers.setdefault(record.kind, []).append(record.answers[0])

    def answer(self, records: Sequence[SceneRecord]) -> list[SceneAnswer]:
        """As `SceneAnswerer.answer`; raises ValueError for a kind of text that none of the given records has."""
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: SceneRecord) -> SceneAnswer:
        chance = random.Random(f"{self.seed}:{record.dataset}:{record.scan}:{record.id}")
        if isinstance(record, GroundingRecord):
            scores = [chance.uniform(-1, 1) for _ in range(len(record.boxes) + 1)]
            means_one = record.kind in UNIQUE_OR_MULTIPLE
            places = best_proposal(scores[:-1]) if means_one else likely_proposals(scores)
            return with_scores(record.boxes, scores, places)
        if record.kind not in self.answers:
            raise ValueError(f"Question {record.id} is of the kind {record.kind}, of which no answers were given.")
        return chance.choice(self.answers[record.kind])


class BlindAnswerer:
    """Answers without scan or words: the largest proposal, and the most frequent answer of the kind in training.

    Args:
        train: questions with answers in words, of other scenes than those to be answered; none are needed for boxes.
    """

    def __init__(self, train: Sequence[SceneRecord] = ()):
        counts: dict[str, Counter] = {}
        for record in train:
            if isinstance(record, TextRecord):
                counts.setdefault(record.kind, Counter()).update(record.answers)
        self.answers = {kind: most_frequent(counter) for kind, counter in counts.items()}
        self.scenes = {(record.dataset, record.scene) for record in train}
        self.settings = {"name": "blind", "kind": "blind", "answers": self.answers, "train": len(train)}

    def answer(self, records: Sequence[SceneRecord]) -> list[SceneAnswer]:
        """As `SceneAnswerer.answer`; raises ValueError for a training scene, or a kind that training lacks."""
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: SceneRecord) -> SceneAnswer:
        if (record.dataset, record.scene) in self.scenes:
            raise ValueError(
                f"Question {record.id} is on {record.dataset}/{record.scene}, which the most frequent answers were "
                "counted on. Give training questions of other scenes."
            )
        if isinstance(record, GroundingRecord):
            volumes = record.boxes[:, 3:].prod(-1)
            return with_scores(record.boxes, volumes, best_proposal(volumes))
        if record.kind not in self.answers:
            raise ValueError(
                f"The training questions have none of the kind {record.kind}, as question {record.id} is."
            )
        return self.answers[record.kind]


def scene_baseline(
    name: str, records: Sequence[SceneRecord], train: Sequence[SceneRecord] = (), seed: int = 0
) -> SceneAnswerer:
    """The baseline of one of `BASELINES`; `train` is what `blind` counts on."""
    if name == "oracle":
        return OracleAnswerer()
    return RandomAnswerer(records, seed) if name == "chance" else BlindAnswerer(train)


def check_scene_baseline(benchmark: str, baseline: str | None, model: str | None, train_table: Path | None) -> None:
    """Raises ValueError, before anything is read, unless a model or a baseline is asked for, and the rest fits it."""
    names = ", ".join(BASELINES)
    if baseline is None:
        if model is None:
            raise ValueError(f"Give a model, or a --baseline: {names}.")
        if train_table is not None:
            raise ValueError("--train-table is only read by --baseline blind. Leave it out, or give the baseline.")
        return
    if baseline not in BASELINES:
        raise ValueError(f"--baseline is {baseline!r}, but of {benchmark} it must be one of {names}.")
    if model is not None:
        raise ValueError(f"--baseline {baseline} of {benchmark} asks no model. Leave {model!r} out.")
    counts = baseline == "blind" and benchmark not in GROUNDING_BENCHMARKS
    if counts != (train_table is not None):
        need = "counts on the training questions of --train-table. Give it" if counts else "reads no --train-table"
        raise ValueError(f"--baseline {baseline} of {benchmark} {need}{'.' if counts else '. Leave it out.'}")
