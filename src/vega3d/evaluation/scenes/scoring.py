"""Scores of answers about scans, as result files hold them; `SCORERS` has the function of each benchmark."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vega3d.evaluation.rules import UNIQUE_OR_MULTIPLE
from vega3d.evaluation.scenes.matching import OVERLAPS, first_overlap, set_f1
from vega3d.evaluation.scenes.records import ChosenBoxes, GroundingRecord, SceneAnswer, SceneRecord, TextRecord
from vega3d.evaluation.scenes.texts import (
    bleu,
    bleu_counts,
    caption_words,
    cider,
    clean_answer,
    meteor,
    meteor_missing,
    rouge_l,
)
from vega3d.geometry import box_iou

CAPTION_OVERLAP = 0.5  # of the described box with the object, below which a caption counts as empty


class Scores(NamedTuple):
    """What a question scores.

    Attributes:
        scores: by the name of the scoring.
        shown: more values for the result file, such as overlaps.
    """

    scores: dict[str, float]
    shown: dict[str, Any]


def checked_answer(record: SceneRecord, answer: SceneAnswer) -> str | dict:
    """The answer as JSON holds it; raises ValueError unless it is of the kind that the question asks for."""
    if isinstance(record, GroundingRecord):
        if not isinstance(answer, ChosenBoxes):
            raise ValueError(f"The answer to question {record.id} is {answer!r:.80}, but must be boxes (ChosenBoxes).")
        return {"boxes": answer.boxes.tolist(), "scores": answer.scores.tolist()}
    if not isinstance(answer, str):
        raise ValueError(f"The answer to question {record.id} is {answer!r:.80}, but must be text.")
    return answer


def restored_answer(record: SceneRecord, answer: Any) -> SceneAnswer:
    """The answer that JSON holds; raises ValueError if the boxes in it are none."""
    if isinstance(record, GroundingRecord) and isinstance(answer, dict) and answer.keys() == {"boxes", "scores"}:
        return ChosenBoxes(**answer)
    return answer


def accuracy(records: Sequence[GroundingRecord], answers: Sequence[dict]) -> list[Scores]:
    """ScanRefer's Acc@IoU of the first box; raises ValueError for a question without exactly one target."""
    for record in records:
        if len(record.targets) != 1:
            raise ValueError(f"Question {record.id} has {len(record.targets)} targets, but accuracy is of one target.")
    overlaps = [first_overlap(chosen(answer), record.targets) for record, answer in zip(records, answers, strict=True)]
    return [
        Scores({f"acc@{least:g}": float(overlap >= least) for least in OVERLAPS}, {"iou": overlap})
        for overlap in overlaps
    ]


def f1(records: Sequence[GroundingRecord], answers: Sequence[dict]) -> list[Scores]:
    """Multi3DRefer's F1@IoU of the boxes that are chosen."""
    found = [set_f1(chosen(answer), record.targets) for record, answer in zip(records, answers, strict=True)]
    return [Scores({f"f1@{least:g}": score for least, score in scores.items()}, {}) for scores in found]


def one_or_several(records: Sequence[GroundingRecord], answers: Sequence[dict]) -> list[Scores]:
    """F1@IoU, and where exactly one object is meant Acc@IoU, which is the F1 of one box."""
    scores = []
    for record, answer in zip(records, answers, strict=True):
        if record.kind in UNIQUE_OR_MULTIPLE:
            [one] = accuracy([record], [answer])
            scores.append(Scores({name.replace("acc", "f1"): value for name, value in one.scores.items()}, one.shown))
        else:
            scores += f1([record], [answer])
    return scores


def chosen(answer: dict) -> np.ndarray:
    return np.asarray(answer["boxes"], float).reshape(-1, 6)


def is_counted(record: TextRecord) -> bool:
    """Whether a caption is of a box that is near enough to the object."""
    if record.target is None:
        return True
    return record.box is not None and bool(box_iou(record.box, record.target) >= CAPTION_OVERLAP)


def compared_caption(record: TextRecord, answer: str) -> tuple[str, list[str]]:
    """A caption and its references as Scan2Cap compares them."""
    return caption_words(answer if is_counted(record) else ""), [caption_words(text) for text in record.answers]


def compared_answer(record: TextRecord, answer: str) -> tuple[str, list[str]]:
    """An answer and its references as ScanQA compares them: without the answer's trailing dots."""
    return answer.rstrip("."), list(record.answers)


COMPARED = {"scan2cap": compared_caption, "scanqa": compared_answer}


def captions(records: Sequence[TextRecord], answers: Sequence[str]) -> list[Scores]:
    """Scan2Cap's metrics; a caption of a box that overlaps the object by less than one half counts as empty."""
    return [
        Scores(scores.scores, {**scores.shown, "counted": is_counted(record)})
        for record, scores in zip(records, word_scores("scan2cap", records, answers), strict=True)
    ]


def open_answers(records: Sequence[TextRecord], answers: Sequence[str]) -> list[Scores]:
    """ScanQA's metrics; the exact match is of the answer as it is, in its own case and with its dots."""
    return [
        Scores({"em": float(answer in record.answers), **scores.scores}, scores.shown)
        for record, answer, scores in zip(records, answers, word_scores("scanqa", records, answers), strict=True)
    ]


def word_scores(benchmark: str, records: Sequence[TextRecord], answers: Sequence[str]) -> list[Scores]:
    """CIDEr, BLEU and ROUGE-L of all answers of a benchmark; `counts` are what the corpus' BLEU is made of."""
    pairs = [COMPARED[benchmark](record, answer) for record, answer in zip(records, answers, strict=True)]
    consensus = cider([text for text, _ in pairs], [references for _, references in pairs])
    scores = []
    for (text, references), value in zip(pairs, consensus, strict=True):
        counts = list(bleu_counts(text, references).values)
        single = {f"bleu_{order}": float(bleu(counts, order)) for order in (1, 4)}
        scores.append(Scores({"cider": value, **single, "rouge_l": rouge_l(text, references)}, {"counts": counts}))
    return scores


def cleaned_answers(records: Sequence[TextRecord], answers: Sequence[str]) -> list[Scores]:
    """SQA3D's exact match, of the cleaned answer with any of the cleaned right ones."""
    cleaned = [clean_answer(answer) for answer in answers]
    return [
        Scores({"em": float(text in map(clean_answer, record.answers))}, {"cleaned": text})
        for record, text in zip(records, cleaned, strict=True)
    ]


Scorer = Callable[[Sequence[Any], Sequence[Any]], list[Scores]]
SCORERS: dict[str, Scorer] = {
    "scanrefer": accuracy,
    "multi3drefer": f1,
    "rooms-grounding": one_or_several,
    "scan2cap": captions,
    "scanqa": open_answers,
    "sqa3d": cleaned_answers,
}


def scored_records(benchmark: str, records: Sequence[SceneRecord], answers: Sequence[str | dict]) -> list[dict]:
    """The questions of the result file, with their checked answers and scores."""
    scored = SCORERS[benchmark](records, answers)
    return [
        {**described(record), "answer": answer, **scores.shown, "scores": scores.scores}
        for record, answer, scores in zip(records, answers, scored, strict=True)
    ]


def described(record: SceneRecord) -> dict:
    """A question without its answer, as the result file holds it."""
    if isinstance(record, GroundingRecord):
        own: dict = {"question": record.expression, "ground_truth": record.targets.tolist()}
    elif isinstance(record, TextRecord):
        own = {"question": record.prompt, "ground_truth": list(record.answers)}
    else:
        raise ValueError(f"Question {record.id} is a {type(record).__name__}, which no benchmark has.")
    return {
        "id": record.id,
        "dataset": record.dataset,
        "scene": record.scene,
        "scan": record.scan,
        "question_type": record.kind,
        "prompt": record.prompt,
        **own,
    }


def corpus_values(benchmark: str, records: Sequence[Any], answers: Sequence[Any]) -> dict:
    """METEOR of captions and answers in words, or why it is missing; nothing for other benchmarks."""
    if benchmark not in COMPARED:
        return {}
    missing = meteor_missing()
    if missing is not None:
        return {"meteor": {"score": None, "missing": missing}}
    pairs = [COMPARED[benchmark](record, answer) for record, answer in zip(records, answers, strict=True)]
    try:
        score = meteor([text for text, _ in pairs], [references for _, references in pairs])
    except RuntimeError as error:  # the answers have cost more than this number
        return {"meteor": {"score": None, "missing": str(error)}}
    return {"meteor": {"score": score, "missing": None}}
