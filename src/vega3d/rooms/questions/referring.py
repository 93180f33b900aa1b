"""Referring expressions about the objects of a walkthrough, and what each means by its geometry: one, none or several.

Two tasks. `one`: the expression means one object, and which of the boxes is asked, as in ScanRefer. `any`: it means
none, one or several, as in Multi3DRefer ("every chair or lamp closer to the bed than to the door").

So that neither words nor boxes alone tell what is meant, each object that can be meant is so as often as another, as
nearly as possible. In `any`, each walkthrough has as many expressions that mean none, one and several, and its words
stand as often with each: nothing of this is fitted to other rooms. `docs/results.md` has what is left.
What geometry leaves in doubt for one object of the class, seen or not, is not said at all.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from vega3d.rooms.questions.annotations import LARGER, own_colour
from vega3d.rooms.questions.observation import GLIMPSE_FRACTION, VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.rooms.questions.questions import DISTANCE_MARGIN, known_directions, shuffled_groups
from vega3d.rooms.scene.classes import CLASSES

# How many objects an expression of the task `any` means, by its determiner.
COUNTS = {"referring_the": ("none", "one"), "referring_every": ("none", "one", "several")}
OR = " or "  # between two nouns after "every"
ANYTHING = "object"  # the noun that means things of all classes that the walkthrough shows
PAIRS = 24  # of anchors that are drawn for a relation to two of them
ABSENT = 3  # classes that the room lacks, which are asked for
LIMITS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # [m] within which objects are asked for
CLASS_LIMITS = (1.0, 2.0)  # those within which objects of a class are asked for
TOUCHING = 0.05  # [m]; shorter distances are not told apart
NOUN_PAIRS = 40  # that are drawn for each relation
FITTINGS, WORD_FITTINGS = 30, 3  # rounds that make objects even, and in each those that make words even
LONG = 1.5  # [m] from which on there is room between two objects
# Of the way from one object to another: where what is between them lies, and how far off the line, surely and at most.
BETWEEN, BEYOND = (0.2, 0.8), (0.0, 1.0)
NARROW, WIDE = 0.2, 0.35
# Single nouns after "every": classes of which rooms often have several.
OFTEN_SEVERAL = (
    *("book", "cabinet", "ceiling light", "chair", "chandelier", "cup", "desk", "door", "handbag", "picture"),
    *("pillow", "plant", "shelf", "stool", "teddy bear", "trash can", "window", ANYTHING),
)
CARRIERS = ("bed", "cabinet", "coffee table", "desk", "nightstand", "shelf", "sofa", "table", "tv stand")
Task = Literal["one", "any"]
Judgement = bool | None  # whether an object is meant; None where geometry leaves a doubt
Judge = Callable[[Sequence[ObservedObject]], list[Judgement]]


@dataclass(frozen=True)
class ReferringExpression:
    """An expression, and the objects that it means."""

    task: Task
    text: str  # "the chair closest to the door", without a full stop
    noun: str  # a class, two joined by `OR`, or `ANYTHING`
    relation: str  # what tells the objects apart, `Relation.name`
    clues: tuple[str, ...]  # other words of content: a colour or a distance, classes of anchors
    targets: tuple[int, ...]  # instances that are meant
    anchors: tuple[int, ...]  # instances that are named beside them, in the order of the words
    others: int  # objects of the nouns in the room that are not meant, anchors left out

    @property
    def kind(self) -> str:
        """The name of its split: of ScanRefer for the task `one`, of Multi3DRefer for `any`."""
        if self.task == "one":
            return "multiple" if self.others else "unique"
        number = ("zt", "st", "mt")[self.right]
        return number if number == "mt" else f"{number}_{'w' if self.others else 'wo'}_d"

    @property
    def question_type(self) -> str:
        return f"referring_{self.text.partition(' ')[0]}"

    @property
    def options(self) -> tuple[str, ...]:
        return COUNTS[self.question_type]

    @property
    def right(self) -> int:
        """Number of the option that says how many are meant."""
        return min(len(self.targets), 2)

    @property
    def words(self) -> tuple[str, ...]:
        """What must not tell how many are meant: nouns and their number, relation, both together, anchors by place."""
        nouns = self.noun.split(OR)
        anchors = (f"{place} {clue}" for place, clue in enumerate(self.clues))
        return *nouns, str(len(nouns)), self.relation, *(f"{noun} {self.relation}" for noun in nouns), *anchors


class Relation(NamedTuple):
    """What tells the objects that are meant from others of their noun."""

    name: str
    words: str  # with a place for the noun: "{} closest to the door"
    judge: Judge  # of all objects of the noun, which are meant
    anchors: tuple[ObservedObject, ...] = ()  # objects of the words, which are never meant themselves
    amount: tuple[str, ...] = ()  # a colour, or a distance
    is_broad: bool = False  # whether it is said of things of all classes alone
    is_superlative: bool = False  # whether it means one object, wherever there are any

    @property
    def clues(self) -> tuple[str, ...]:
        return (*self.amount, *(anchor.name for anchor in self.anchors))


Relations = Iterator[Relation]
Judged = tuple[list[ObservedObject], list[Judgement]]  # objects of a noun, and whether each is meant


def each(judge_one: Callable[[ObservedObject], Judgement]) -> Judge:
    """A judge that looks at each object by itself."""
    return lambda items: [judge_one(item) for item in items]


def least(value: Callable[[ObservedObject], float], margin: float, floor: float = 0.0) -> Judge:
    """A judge that means the object with the least value; in doubt if another has no more than `margin` times as much.

    Values below `floor` are taken to be `floor`.
    """

    def judge(items: Sequence[ObservedObject]) -> list[Judgement]:
        values = [value(item) for item in items]
        first, *rest = sorted(values) or [0.0]
        if rest and not rest[0] > margin * max(first, floor):
            return [None] * len(items)
        return [number == first for number in values]

    return judge


def is_below(item: ObservedObject, value: Callable[[ObservedObject], float], limit: float) -> Judgement:
    """Whether a value is below a limit; values on both sides of it differ by `DISTANCE_MARGIN`."""
    if limit / DISTANCE_MARGIN**0.5 < value(item) < limit * DISTANCE_MARGIN**0.5:
        return None
    return value(item) < limit


def name_alone(observation: Observation, random: np.random.Generator) -> Relations:
    yield Relation("name", "{}", each(lambda item: True))


def by_distance(observation: Observation, random: np.random.Generator) -> Relations:
    for anchor in observation.unique:
        reach, words = partial(observation.distance, anchor), f"the {anchor.name}"

        def nearness(item: ObservedObject, reach=reach) -> float:
            return 1 / max(reach(item), TOUCHING)

        closest = least(reach, DISTANCE_MARGIN, TOUCHING)
        yield Relation("closest", f"{{}} closest to {words}", closest, (anchor,), is_superlative=True)
        farthest = least(nearness, DISTANCE_MARGIN)
        yield Relation("farthest", f"{{}} farthest from {words}", farthest, (anchor,), is_superlative=True)
        for limit in LIMITS:
            amount = f"{limit:g} m"
            near = each(partial(is_below, value=reach, limit=limit))
            yield Relation(
                "near",
                f"{{}} less than {amount} from {words}",
                near,
                (anchor,),
                (amount,),
                is_broad=limit not in CLASS_LIMITS,
            )


def by_side(observation: Observation, random: np.random.Generator) -> Relations:
    for observer, facing in shuffled_groups(observation.unique, 2, random, PAIRS):
        for side in ("left", "right"):

            def judge(item: ObservedObject, observer=observer, facing=facing, side=side) -> Judgement:
                found = known_directions(observation, observer, facing, item).get("easy")
                return None if found is None else found == side

            words = f"{{}} on the {side}, seen from the {observer.name} towards the {facing.name}"
            yield Relation(side, words, each(judge), (observer, facing))


def by_comparison(observation: Observation, random: np.random.Generator) -> Relations:
    for group in shuffled_groups(observation.unique, 2, random, PAIRS // 2):
        for near, far in (group, group[::-1]):

            def judge(item: ObservedObject, near=near, far=far) -> Judgement:
                reach, other = (max(observation.distance(anchor, item), TOUCHING) for anchor in (near, far))
                return None if 1 / DISTANCE_MARGIN <= reach / other <= DISTANCE_MARGIN else reach < other

            yield Relation(
                "closer", f"{{}} closer to the {near.name} than to the {far.name}", each(judge), (near, far)
            )


def by_line(observation: Observation, random: np.random.Generator) -> Relations:
    for first, second in shuffled_groups(observation.unique, 2, random, PAIRS):
        start = np.asarray(first.box.center)
        way = np.asarray(second.box.center) - start
        length = float(np.linalg.norm(way))
        if length < LONG:
            continue

        def judge(item: ObservedObject, start=start, way=way, length=length) -> Judgement:
            there = np.asarray(item.box.center) - start
            along = float(there @ way) / length**2
            off = float(np.linalg.norm(there - along * way)) / length
            if BETWEEN[0] <= along <= BETWEEN[1] and off <= NARROW:
                return True
            return None if BEYOND[0] < along < BEYOND[1] and off < WIDE else False

        words = f"{{}} between the {first.name} and the {second.name}"
        yield Relation("between", words, each(judge), (first, second))


def by_carrier(observation: Observation, random: np.random.Generator) -> Relations:
    for anchor in observation.unique:
        if anchor.name in CARRIERS:
            judge = each(lambda item, carrier=anchor.id: item.on == carrier)  # type: ignore[misc]
            yield Relation("on", f"{{}} on the {anchor.name}", judge, (anchor,))


def by_size(observation: Observation, random: np.random.Generator) -> Relations:
    def volume(item: ObservedObject) -> float:
        return float(np.prod(item.box.size))

    yield Relation("smallest", "smallest {}", least(volume, LARGER), is_superlative=True)
    yield Relation("largest", "largest {}", least(lambda item: 1 / volume(item), LARGER), is_superlative=True)


def by_colour(observation: Observation, random: np.random.Generator) -> Relations:
    named = [own_colour(item) for item in observation.visible]
    for colour in sorted({colour for colour in named if colour is not None}):

        def judge(item: ObservedObject, colour=colour) -> Judgement:
            found = own_colour(item)
            return None if found is None else found == colour

        yield Relation("colour", f"{colour} {{}}", each(judge), amount=(colour,))


def by_time(observation: Observation, random: np.random.Generator) -> Relations:
    def first_frame(item: ObservedObject, fraction: float) -> float:
        frames = np.flatnonzero(observation.mask_fractions[item.id] >= fraction)
        return float(frames[0]) if len(frames) else math.inf

    def first_seen(items: Sequence[ObservedObject]) -> list[Judgement]:
        views = [first_frame(item, VISIBLE_FRACTION) for item in items]
        glimpses = [first_frame(item, GLIMPSE_FRACTION) for item in items]
        for place, view in enumerate(views):
            if view < min(glimpses[:place] + glimpses[place + 1 :], default=math.inf):
                return [other == place for other in range(len(items))]
        return [None] * len(items)

    yield Relation("first", "{} that is seen first", first_seen, is_superlative=True)
    for anchor in observation.unique:
        view, glimpse = first_frame(anchor, VISIBLE_FRACTION), first_frame(anchor, GLIMPSE_FRACTION)

        def judge(item: ObservedObject, view=view, glimpse=glimpse) -> Judgement:
            if first_frame(item, VISIBLE_FRACTION) < glimpse:
                return True
            return False if view < first_frame(item, GLIMPSE_FRACTION) else None

        yield Relation("before", f"{{}} seen before the {anchor.name}", each(judge), (anchor,))


RELATIONS = (name_alone, by_distance, by_side, by_comparison, by_line, by_carrier, by_size, by_colour, by_time)
# Relations of the task `any`, of which rooms hold the opposite, too: they can mean none, one or several of any class.
OF_ANY = ("left", "right", "closer", "before")
OF_ONE_CLASS = ("name", "smallest", "largest")  # relations that say nothing, or little, of things of all classes


def referring_candidates(observation: Observation, random: np.random.Generator) -> list[ReferringExpression]:
    """All expressions of the task `any` that can be said."""
    present = sorted({item.name for item in observation.objects})
    absent = [name for name in CLASSES if name not in present]
    asked = [absent[i] for i in random.permutation(len(absent))[:ABSENT]]
    several = [name for name in absent if name in OFTEN_SEVERAL and name not in asked]
    asked += [several[i] for i in random.permutation(len(several))[:ABSENT]]
    found: list[ReferringExpression] = []
    for maker in RELATIONS:
        for relation in maker(observation, random):
            judged = {noun: judged_objects(relation, noun, observation) for noun in (*present, *asked, ANYTHING)}
            found += said(relation, {noun: objects for noun, objects in judged.items() if objects}, random)
    return found


def judged_objects(relation: Relation, noun: str, observation: Observation) -> Judged | None:
    """The objects of a noun, and which a relation means; None if it cannot be said of them, or leaves a doubt."""
    anchors = {anchor.id for anchor in relation.anchors}
    if noun == ANYTHING:
        if relation.name in OF_ONE_CLASS:
            return None
        items = [item for item in observation.glimpsed if item.id not in anchors]
    else:
        items = observation.named(noun)
        if relation.is_broad or any(item.id in anchors for item in items):
            return None
    if relation.is_superlative and len(items) == 1:
        return None
    meant = relation.judge(items)
    if None in meant:
        return None
    is_seen = observation.visible_ids.issuperset(
        item.id for item, is_meant in zip(items, meant, strict=True) if is_meant
    )
    return (items, meant) if is_seen else None


def said(relation: Relation, judged: dict[str, Judged], random: np.random.Generator) -> Iterator[ReferringExpression]:
    """What can be said by a relation: "the" of a noun, "every" of a noun that often means several or of two classes.

    Args:
        judged: what the relation means, by the noun that it can be said of.
        random: where pairs of classes are drawn from.
    """
    for noun, (_, meant) in judged.items():
        if meant.count(True) < 2:
            yield expressed("the", relation, (noun,), judged)
    if relation.name in OF_ANY:
        classes = [noun for noun in judged if noun != ANYTHING]
        several = [[noun] for noun in judged if noun in OFTEN_SEVERAL]
        for nouns in (*several, *shuffled_groups(classes, 2, random, NOUN_PAIRS)):
            yield expressed("every", relation, nouns, judged)


def expressed(
    determiner: str, relation: Relation, nouns: Sequence[str], judged: dict[str, Judged]
) -> ReferringExpression:
    noun = OR.join(nouns)
    objects = [pair for name in nouns for pair in zip(*judged[name], strict=True)]
    targets = tuple(item.id for item, is_meant in objects if is_meant)
    others = len(objects) - len(targets)
    text = f"{determiner} {relation.words.format(noun)}"
    anchors = tuple(anchor.id for anchor in relation.anchors)
    return ReferringExpression("any", text, noun, relation.name, relation.clues, targets, anchors, others)


def singled_out(
    expressions: Iterable[ReferringExpression], random: np.random.Generator, count: int
) -> list[ReferringExpression]:
    """An expression of the task `one` for up to `count` objects: each object is as likely, and each way to tell it.

    The expressions are those of `referring_candidates`. A class alone is said of the only object of its class.
    """
    telling: dict[int, dict[str, list[ReferringExpression]]] = {}
    for expression in expressions:
        is_of_one = expression.question_type == "referring_the" and expression.targets
        if is_of_one and (expression.relation == "name" or expression.others):
            relations = telling.setdefault(expression.targets[0], {})
            relations.setdefault(expression.relation, []).append(expression)
    chosen = []
    for target in random.permutation(sorted(telling))[:count].tolist():
        relations = telling[target]
        relation = sorted(relations)[random.integers(len(relations))]
        chosen.append(replace(relations[relation][random.integers(len(relations[relation]))], task="one"))
    return chosen


def balanced(
    expressions: Sequence[ReferringExpression], random: np.random.Generator, count: int
) -> list[ReferringExpression]:
    """Of expressions with one determiner, `count` or fewer for each number of objects: none, one and several.

    There are as many of each, so that the boxes of a walkthrough do not tell how many are meant.
    """
    shares = even_shares(expressions)
    if not shares.any():
        return []
    count = min(count, int(1 / shares.max()))
    chosen = []
    for right in range(len(expressions[0].options)):
        places = np.array([place for place, said in enumerate(expressions) if said.right == right])
        places = places[random.permutation(len(places))]
        ends = np.cumsum(shares[places])
        drawn = (random.random() + np.arange(count)) / count * ends[-1]  # none twice, as no share is above 1 / count
        chosen += [expressions[place] for place in places[np.searchsorted(ends, drawn, side="right")]]
    return chosen


def even_shares(expressions: Sequence[ReferringExpression]) -> np.ndarray:
    """float[n]: how often each expression with one determiner is drawn among those that mean as many objects.

    Two conditions are fitted by turns (raking): each of `ReferringExpression.words` stands as often with none, one and
    several, and each object is meant equally often, as nearly as the words allow. An expression takes the geometric
    mean of the corrections of its words, and of its targets. One with a word that never stands with one of the numbers
    is not used; all shares are zero if none is left, as where no expression at all means one of the numbers.
    """
    right = np.array([said.right for said in expressions])
    if not expressions or len(np.unique(right)) < len(expressions[0].options):
        return np.zeros(len(expressions))
    words = Incidence([said.words for said in expressions], right)
    targets = Incidence([said.targets for said in expressions], right)
    share = words.used_with_each(np.ones(len(expressions)))
    kinds = [(said.kind, said.relation) for said in expressions]
    alike = Counter(kind for kind, left in zip(kinds, share, strict=True) if left)
    share /= [max(alike[kind], 1) for kind in kinds]
    for _ in range(FITTINGS if share.any() else 0):
        held = targets.masses(share)
        means = held.sum(axis=0) / np.maximum((held > 0).sum(axis=0), 1)
        share = targets.corrected(share, logarithms(means) - logarithms(held))
        for _ in range(WORD_FITTINGS):
            held = logarithms(words.masses(share))
            share = words.corrected(share, held.mean(axis=1, keepdims=True) - held)
            share /= np.bincount(right, share)[right]
    return share


def logarithms(values: np.ndarray) -> np.ndarray:
    """Logarithms, and 0 of what is 0."""
    return np.log(np.where(values > 0, values, 1))


class Incidence:
    """Which of some things, words or objects, each expression holds.

    Args:
        held: things of each expression, none twice.
        right: int[n], the number of objects that each expression means.
    """

    def __init__(self, held: Sequence[Sequence[Hashable]], right: np.ndarray):
        places = {thing: place for place, thing in enumerate(dict.fromkeys(itertools.chain.from_iterable(held)))}
        self.sizes = np.array([len(things) for things in held])
        self.rows = np.repeat(np.arange(len(held)), self.sizes)
        self.shape = (len(places), int(right.max()) + 1)
        columns = np.array([places[thing] for things in held for thing in things], int)
        self.cells = columns * self.shape[1] + right[self.rows]

    def masses(self, share: np.ndarray) -> np.ndarray:
        """float[things, options]: sum of the shares of each thing and number of objects."""
        size = self.shape[0] * self.shape[1]
        return np.bincount(self.cells, share[self.rows], size).reshape(self.shape)

    def corrected(self, share: np.ndarray, corrections: np.ndarray) -> np.ndarray:
        """Shares by the mean of float[things, options] of each expression's things, logarithms of factors."""
        total = np.bincount(self.rows, corrections.ravel()[self.cells], len(share))
        return share * np.exp(total / np.maximum(self.sizes, 1))

    def used_with_each(self, share: np.ndarray) -> np.ndarray:
        """Shares without expressions of which a thing never stands with one of the numbers of objects."""
        while True:
            lacks = (self.masses(share) == 0).any(axis=1)[self.cells // self.shape[1]]
            lacking = np.bincount(self.rows, lacks, len(share)) * share > 0
            if not lacking.any():
                return share
            share = np.where(lacking, 0.0, share)


def referring_expressions(observation: Observation, seed: Sequence[int], per_type: int) -> list[ReferringExpression]:
    """Expressions of the task `one`, up to 2 `per_type`, then as many with "the" and half as many with "every"."""
    random = np.random.default_rng([*seed, 0])
    candidates = referring_candidates(observation, random)
    chosen = singled_out(candidates, random, 2 * per_type)
    for question_type, count in zip(COUNTS, (per_type, max(1, per_type // 3)), strict=True):
        asked = [found for found in candidates if found.question_type == question_type and found.relation in OF_ANY]
        chosen += balanced(asked, random, count)
    return chosen
