"""Metrics of captions and answers in words: CIDEr-D, BLEU, ROUGE-L, METEOR, and SQA3D's cleaning of an answer.

CIDEr-D, BLEU and ROUGE-L are computed as pycocoevalcap does, on words between spaces, without its tokeniser; that is
what the published numbers of Scan2Cap and ScanQA stand on. They agree with numbers of the official code to 1e-9
(`tests/test_conformance.py`).
"""

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vega3d.evaluation.metrics import NUMBERS_TO_NINETEEN
from vega3d.extras import MissingExtraError, check_installed, optional_module

ORDERS = 4  # the longest n-gram, of BLEU and CIDEr
MOST_CIDER = 10.0  # of an answer that equals each of its references
LENGTH_SPREAD = 6.0  # CIDEr-D's sigma [words]
RECALL_WEIGHT = 1.2  # ROUGE-L's beta
BLEU_VALUES = 2 * ORDERS + 2  # of `BleuCounts`
NEVER_ZERO, NEVER_EMPTY = 1e-15, 1e-9  # added to what BLEU divides, and to what it divides by

Ngrams = Counter[tuple[str, ...]]


def ngrams(text: str) -> Ngrams:
    """How often each run of 1 to 4 words is in a text."""
    words = text.split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


class Weighted(NamedTuple):
    """A text as CIDEr compares it.

    Attributes:
        weights: of its n-grams, frequency times rarity.
        norms: float[4], length of the vector of each order.
        length: number of its bigrams, by which CIDEr-D measures length.
    """

    weights: dict[tuple[str, ...], float]
    norms: np.ndarray
    length: int


def weighted(counts: Ngrams, documents: Counter, log_size: float) -> Weighted:
    weights = {key: count * (log_size - np.log(max(1.0, documents[key]))) for key, count in counts.items()}
    squares = np.zeros(ORDERS)
    for key, weight in weights.items():
        squares[len(key) - 1] += weight**2
    return Weighted(weights, np.sqrt(squares), sum(count for key, count in counts.items() if len(key) == 2))


def cider_similarity(answer: Weighted, reference: Weighted) -> float:
    """Mean over the four orders of the clipped cosine, less for another length."""
    products = np.zeros(ORDERS)
    for key, weight in answer.weights.items():
        other = reference.weights.get(key, 0.0)
        products[len(key) - 1] += min(weight, other) * other
    norms = answer.norms * reference.norms
    cosines = np.divide(products, norms, out=products, where=norms != 0)
    difference = answer.length - reference.length
    return float(cosines.mean() * np.exp(-(difference**2) / (2 * LENGTH_SPREAD**2)))


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each answer, from 0 to `MOST_CIDER`; rarity is counted over the references of all of them."""
    counts = [[ngrams(text) for text in texts] for texts in references]
    documents = Counter(key for texts in counts for key in set().union(*texts))
    log_size = np.log(float(len(references)))
    scores = []
    for answer, texts in zip(answers, counts, strict=True):
        own = weighted(ngrams(answer), documents, log_size)
        similarities = [cider_similarity(own, weighted(text, documents, log_size)) for text in texts]
        scores.append(MOST_CIDER * sum(similarities) / len(similarities))
    return scores


class BleuCounts(NamedTuple):
    """What BLEU adds up over answers: that of a corpus is of the sums, and no mean.

    Attributes:
        right: int[4], n-grams that a reference has too, no more often than it has them.
        given: int[4], n-grams of the answer.
        length: of the answer [words].
        wanted: length of the reference that is nearest in length [words].
    """

    right: tuple[int, ...]
    given: tuple[int, ...]
    length: int
    wanted: int

    @property
    def values(self) -> tuple[int, ...]:
        """The ten numbers that `bleu` takes."""
        return *self.right, *self.given, self.length, self.wanted


def bleu_counts(answer: str, references: Sequence[str]) -> BleuCounts:
    counts, length = ngrams(answer), len(answer.split())
    most: Ngrams = Counter()
    for reference in references:
        most |= ngrams(reference)
    right = [0] * ORDERS
    for key, count in counts.items():
        right[len(key) - 1] += min(count, most[key])
    given = tuple(max(0, length - order) for order in range(ORDERS))
    lengths = (len(reference.split()) for reference in references)
    _, wanted = min((abs(other - length), other) for other in lengths)
    return BleuCounts(tuple(right), given, length, wanted)


def bleu(counts: npt.ArrayLike, order: int) -> np.ndarray:
    """float64[...]: BLEU of 1 up to `order` (at most 4) words, of sums float[..., 10] of `BleuCounts.values`."""
    counts = np.asarray(counts, float)
    right, given = counts[..., :order], counts[..., ORDERS : ORDERS + order]
    precision = ((right + NEVER_ZERO) / (given + NEVER_EMPTY)).prod(-1) ** (1 / order)
    ratio = (counts[..., -2] + NEVER_ZERO) / (counts[..., -1] + NEVER_EMPTY)
    return precision * np.exp(np.minimum(0, 1 - 1 / ratio))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L in [0, 1]: the best precision and the best recall of all references, weighed together."""
    words = answer.split(" ")
    common = [(longest_common(words, other), len(other)) for other in (text.split(" ") for text in references)]
    precision = max(shared / len(words) for shared, _ in common)
    recall = max(shared / length for shared, length in common)
    if not precision or not recall:
        return 0.0
    return (1 + RECALL_WEIGHT**2) * precision * recall / (recall + RECALL_WEIGHT**2 * precision)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest series of words that both have, in order, with gaps."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = lengths
        lengths = [0]
        for place, other in enumerate(second):
            lengths.append(before[place] + 1 if word == other else max(before[place + 1], lengths[place]))
    return lengths[-1]


def meteor_missing() -> str | None:
    """Why METEOR cannot be computed here, or None if it can."""
    if shutil.which("java") is None:
        return "it needs Java, and there is no java here. Install a Java runtime, such as default-jre-headless"
    try:
        check_installed("pycocoevalcap")
    except MissingExtraError as error:
        return str(error)
    return None


def meteor(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR of a corpus in [0, 1], by the Java program that pycocoevalcap brings.

    Raises RuntimeError if that program ends early, as without 2 GiB of memory.
    """
    wanted = {place: [on_one_line(text) for text in texts] for place, texts in enumerate(references)}
    given = {place: [on_one_line(text)] for place, text in enumerate(answers)}
    scorer = optional_module("pycocoevalcap.meteor.meteor").Meteor()
    try:
        score, _ = scorer.compute_score(wanted, given)
    except (OSError, ValueError) as error:
        scorer.lock.release()  # which its destructor waits for
        raise RuntimeError("java ended early. METEOR takes up to 2 GiB of memory") from error
    return float(score)


def on_one_line(text: str) -> str:
    """A text as METEOR's program reads it: one line, without the `|||` that it has between texts."""
    return " ".join(text.replace("|||", " ").split())


def caption_words(text: str) -> str:
    """A caption as Scan2Cap compares it: in lower case, `.` and `,` as words of their own, between `sos` and `eos`."""
    return f"sos {text.replace('.', ' . ').replace(',', ' , ').lower()} eos"


SQA3D_SPELLINGS = {  # in this order; whole words of the answers that people typed
    "letf": "left",
    "let": "left",
    "tehre": "there",
    "rigth": "right",
    "rght": "right",
    "behine": "behind",
    "tv": "TV",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
    "o'[ ]+clock": "o'clock",
}
SQA3D_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("^[ ]+|[ ]+$", ""),
        (" {2,}", " "),
        (r"[^a-zA-Z0-9,'\s\-:]+", ""),
        *((rf"\b{word}\b", other) for word, other in SQA3D_SPELLINGS.items()),
        *((rf"\b{number}\b", word) for number, word in enumerate([*NUMBERS_TO_NINETEEN.split(), "twenty"])),
        (r"\bnone\b", "zero"),
        (r"\b23\b", "twenty-three"),
        (r"\b([a-zA-Z]+)[0-9]\b", r"\1"),  # "no1"
        *((rf"\b{article}\b ([a-zA-Z]+)", r"\1") for article in ("a", "an", "the")),
        (r"\bbackwards\b", "backward"),
    )
]


def clean_answer(text: str) -> str:
    """An answer as SQA3D compares it: common misspellings mended, numbers to twenty in words, articles left out."""
    text = text.lower()
    for pattern, replacement in SQA3D_RULES:
        text = pattern.sub(replacement, text)
    return text
