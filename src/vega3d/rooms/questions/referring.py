"""Referring expressions about the objects of a walkthrough, and what each means by its geometry: one, none or several.

Two tasks. `one`: the expression means one object, and which of the boxes is asked, as in ScanRefer. `any`: it means
none, one or several, as in Multi3DRefer ("every chair less than 1 m from the bed", "the piano" where there is none).

So that neither words nor boxes alone tell what is meant, each object that can be meant is so as often as another, as
nearly as possible. In `any`, each walkthrough has as many expressions that mean none, one and several, and those with
"every" have the same patterns; `text_prior` makes revealing words rarer. `docs/results.md` has what is left.
What geometry leaves in doubt for one object of the class, seen or not, is not said at all.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from vega3d.rooms.questions.annotations import LARGER, own_colour
from vega3d.rooms.questions.observation import GLIMPSE_FRACTION, VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.rooms.questions.questions import DISTANCE_MARGIN, known_directions, shuffled_groups
from vega3d.rooms.questions.text_prior import COUNTS, option_probabilities
from vega3d.rooms.scene.classes import CLASSES

ANYTHING = "object"  # the noun that means things of all classes that the walkthrough shows
PAIRS = 8  # of anchors that are drawn for a relation to two of them
ABSENT = 3  # classes that the room lacks, which are asked for
LIMITS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # [m] within which objects are asked for
CLASS_LIMITS = (1.0, 2.0)  # those within which objects of a class are asked for
TOUCHING = 0.05  # [m]; shorter distances are not told apart
FITTINGS = 20  # rounds in which the objects that are meant are made even
LONG = 1.5  # [m] from which on there is room between two objects
# Of the way from one object to another: where what is between them lies, and how far off the line, surely and at most.
BETWEEN, BEYOND = (0.2, 0.8), (0.0, 1.0)
NARROW, WIDE = 0.2, 0.35
# Nouns after "every": classes of which rooms often have several.
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
    noun: str  # a class, or `ANYTHING`
    relation: str  # what tells the objects apart, `Relation.name`
    clues: tuple[str, ...]  # other words of content: a colour or a distance, classes of anchors
    targets: tuple[int, ...]  # instances that are meant
    others: int  # objects of the noun in the room that are not meant, anchors left out

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
    def pattern(self) -> str:
        """What expressions of a walkthrough have in common that mean none, one and several: all but the anchors."""
        words = [self.noun, self.relation, *(self.clues[:1] if self.relation == "near" else ())]
        return " ".join(words) if self.question_type == "referring_every" else ""

    @property
    def names(self) -> list[str]:
        """What `text_prior` knows of the words."""
        return [self.noun, self.relation, *self.clues]


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


RELATIONS = (name_alone, by_distance, by_side, by_line, by_carrier, by_size, by_colour, by_time)
OF_ONE_CLASS = ("name", "smallest", "largest")  # relations that say nothing, or little, of things of all classes


def referring_candidates(observation: Observation, random: np.random.Generator) -> list[ReferringExpression]:
    """All expressions of the task `any` that can be said."""
    present = sorted({item.name for item in observation.objects})
    absent = [name for name in CLASSES if name not in present]
    asked = [absent[i] for i in random.permutation(len(absent))[:ABSENT]]
    several = [name for name in absent if name in OFTEN_SEVERAL and name not in asked]
    asked += [several[i] for i in random.permutation(len(several))[:ABSENT]]
    return [
        expression
        for maker in RELATIONS
        for relation in maker(observation, random)
        for noun in (*present, *asked, ANYTHING)
        for expression in said(relation, noun, observation)
    ]


def said(relation: Relation, noun: str, observation: Observation) -> Iterator[ReferringExpression]:
    """What can be said of a noun by a relation: "the ...", "every ...", both or neither."""
    anchors = {anchor.id for anchor in relation.anchors}
    if noun == ANYTHING:
        shares = observation.mask_fractions
        glimpsed = [item for item in observation.objects if shares[item.id].max() >= GLIMPSE_FRACTION]
        items = [item for item in glimpsed if item.id not in anchors]
        if relation.name in OF_ONE_CLASS:
            return
    else:
        items = observation.named(noun)
        if relation.is_broad or any(item.id in anchors for item in items):
            return
    meant = relation.judge(items)
    targets = tuple(item.id for item, is_meant in zip(items, meant, strict=True) if is_meant)
    seen = {item.id for item in observation.visible}
    if None in meant or not seen.issuperset(targets) or (relation.is_superlative and len(items) == 1):
        return
    for determiner in ("the", "every"):
        is_one = determiner == "the"
        if len(targets) > 1 if is_one else relation.is_superlative or noun not in OFTEN_SEVERAL:
            continue
        text = f"{determiner} {relation.words.format(noun)}"
        others = len(items) - len(targets)
        yield ReferringExpression("any", text, noun, relation.name, relation.clues, targets, others)


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
    probabilities = [option_probabilities(said.question_type, said.names, said.options) for said in expressions]
    shares = even_shares(expressions, np.array(probabilities))
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


def even_shares(expressions: Sequence[ReferringExpression], probabilities: np.ndarray) -> np.ndarray:
    """float[n]: how often each expression with one determiner is drawn among those that mean as many objects.

    Three conditions are fitted by turns. The words of an expression tell little of how many it means. What means none,
    one and several has the same patterns (`ReferringExpression.pattern`); one that lacks any of them is not used. Each
    object is meant equally often, as nearly as the others allow: an expression takes the geometric mean of the
    corrections of its targets. All shares are zero if no pattern is left.

    Args:
        expressions: candidates of a walkthrough.
        probabilities: float[n, options], of each number of objects by the words.
    """
    count = len(expressions)
    if not count:
        return np.zeros(0)
    right = np.array([said.right for said in expressions])
    groups = range(probabilities.shape[1])
    names = sorted({said.pattern for said in expressions})
    pattern = np.array([names.index(said.pattern) for said in expressions])
    alike = Counter((said.right, said.relation, said.noun == ANYTHING) for said in expressions)
    share = probabilities.min(axis=1) / probabilities[np.arange(count), right]
    share /= [alike[said.right, said.relation, said.noun == ANYTHING] for said in expressions]
    objects = sorted({target for said in expressions for target in said.targets})
    is_meant = np.array([[target in said.targets for target in objects] for said in expressions], float)
    held = pattern_masses(share, pattern, right, len(names), len(groups))
    share = share * np.all(held > 0, axis=1)[pattern]
    for _ in range(FITTINGS if share.any() else 0):
        for number in groups[1:]:
            mine = right == number
            meant = share[mine] @ is_meant[mine]
            ratio = np.where(meant > 0, meant.sum() / (meant > 0).sum() / np.where(meant > 0, meant, 1), 1)
            share[mine] *= np.exp(is_meant[mine] @ np.log(ratio) / is_meant[mine].sum(axis=1))
        held = pattern_masses(share, pattern, right, len(names), len(groups))
        wanted = np.exp(np.log(np.where(held > 0, held, 1)).mean(axis=1, keepdims=True))
        share = share * (wanted / np.where(held > 0, held, 1))[pattern, right]
        share /= share.sum() / len(groups)
    return share


def pattern_masses(
    share: np.ndarray, pattern: np.ndarray, right: np.ndarray, patterns: int, options: int
) -> np.ndarray:
    """float[patterns, options]: sum of the shares of each pattern and number of objects."""
    return np.bincount(pattern * options + right, share, patterns * options).reshape(patterns, options)


def referring_expressions(observation: Observation, seed: Sequence[int], per_type: int) -> list[ReferringExpression]:
    """Up to 2 `per_type` expressions of the task `one`, then 2 `per_type` with "the" and 3 `per_type` with "every"."""
    random = np.random.default_rng([*seed, 0])
    candidates = referring_candidates(observation, random)
    chosen = singled_out(candidates, random, 2 * per_type)
    for question_type in COUNTS:
        asked = [candidate for candidate in candidates if candidate.question_type == question_type]
        chosen += balanced(asked, random, per_type)
    return chosen
