"""What results are scored and averaged by, of each benchmark: types of question, scorings, rows of the table.

Letters: S scenes, K question types, C values of a question that a scoring adds up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vega3d.evaluation.metrics import CATEGORIES, EXTRA_CHOICE_TYPES, QUESTION_TYPES
from vega3d.evaluation.scenes.texts import BLEU_VALUES, MOST_CIDER, bleu

OVERALL = "overall"  # the score over all questions of a benchmark of scenes


@dataclass(frozen=True)
class Scoring:
    """A way to score an answer, and to average scores.

    Attributes:
        most: the highest score; the lowest is 0.
        corpus: float[..., C] of what the questions' `counts` add up to -> the score of them together, float[...]; None
            for the mean of the questions' scores.
        width: C, of `counts`.
    """

    most: float = 1.0
    corpus: Callable[[np.ndarray], np.ndarray] | None = None
    width: int = 1

    def values(self, question: Mapping, name: str) -> list[float]:
        """The C values that a question of a result adds to its type."""
        return [question["scores"][name]] if self.corpus is None else question["counts"]

    def average(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """float[...]: the score of sums float[..., C] over float[...] questions; NaN where there is none."""
        if self.corpus is not None:
            return np.where(counts > 0, self.corpus(sums), np.nan)
        with np.errstate(invalid="ignore"):
            return sums[..., 0] / counts


def bleu_of(order: int) -> Scoring:
    return Scoring(corpus=lambda sums: bleu(sums, order), width=BLEU_VALUES)


@dataclass(frozen=True)
class Rules:
    """How the results of a benchmark are read, averaged and shown.

    Attributes:
        types: what `question_type` of its questions may be.
        scorings: by name, the main one first.
        rows: of the table, each with the question types that it is the unweighted mean of.
        macro: rows whose mean is the score `macro`.
        over_all: name of the score over all questions at once.
        outside: types that are left out of it.
        source: what a question is about, as notes call it.
    """

    types: tuple[str, ...]
    scorings: Mapping[str, Scoring]
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    macro: tuple[str, ...] = ()
    over_all: str = OVERALL
    outside: tuple[str, ...] = ()
    source: str = "scan"

    @property
    def main(self) -> str:
        """The scoring that tables and comparisons show if none is asked for."""
        return next(iter(self.scorings))

    @property
    def averaged(self) -> list[int]:
        """Places of the types that `over_all` is over."""
        return [place for place, name in enumerate(self.types) if name not in self.outside]


VSIBENCH = Rules(
    types=QUESTION_TYPES,
    scorings=dict.fromkeys(("official", "lmms_eval", "likelihood"), Scoring()),
    rows={**CATEGORIES, **{name: (name,) for name in EXTRA_CHOICE_TYPES}},
    macro=tuple(CATEGORIES),
    over_all="micro",
    outside=EXTRA_CHOICE_TYPES,
    source="video",
)


def rules_by_kind(kinds: tuple[str, ...], **scorings: Scoring) -> Rules:
    """Rules with a row for each kind, if there are several, and one over all questions."""
    return Rules(kinds, scorings, {kind: (kind,) for kind in kinds} if len(kinds) > 1 else {})


UNIQUE_OR_MULTIPLE = ("unique", "multiple")
CIDER = Scoring(most=MOST_CIDER)
KINDS_OF_SETS = ("zt_wo_d", "zt_w_d", "st_wo_d", "st_w_d", "mt")  # of Multi3DRefer
F1 = {"f1@0.25": Scoring(), "f1@0.5": Scoring()}
SCENE_RULES = {
    "scanrefer": rules_by_kind(UNIQUE_OR_MULTIPLE, **{"acc@0.25": Scoring(), "acc@0.5": Scoring()}),
    "multi3drefer": rules_by_kind(KINDS_OF_SETS, **F1),
    "rooms-grounding": Rules(
        types=(*UNIQUE_OR_MULTIPLE, *KINDS_OF_SETS),
        scorings=F1,
        rows={
            **{kind: (kind,) for kind in (*UNIQUE_OR_MULTIPLE, *KINDS_OF_SETS)},
            "one": UNIQUE_OR_MULTIPLE,
            "any": KINDS_OF_SETS,
        },
        source="room",
    ),
    "scan2cap": rules_by_kind(UNIQUE_OR_MULTIPLE, cider=CIDER, bleu_4=bleu_of(4), rouge_l=Scoring()),
    "scanqa": rules_by_kind(
        ("question",), em=Scoring(), cider=CIDER, bleu_1=bleu_of(1), bleu_4=bleu_of(4), rouge_l=Scoring()
    ),
    "sqa3d": rules_by_kind(("what", "is", "how", "can", "which", "others"), em=Scoring()),
}


def rules_of(benchmark: object) -> Rules:
    """The rules of a benchmark by its name in a result; those of VSI-Bench for every table of its questions."""
    return SCENE_RULES.get(str(benchmark), VSIBENCH)
