"""Which questions a model was trained on, and what one is told who asks another."""

import re

import pytest

from tiny_checkpoints import copy_frozen
from vega3d import VegaConfig
from vega3d.demo.examples import load_examples
from vega3d.inference.answer import notices
from vega3d.questions import KnownQuestions, SpatialQuestion
from vega3d.shipped import ASSETS

CLOSEST = (
    "Measuring from the closest point of each object, which of these objects (bed, door, lamp, chair) is the closest "
    "to the {}?"
)
LEFT_OF = "If I am standing by the {} and facing the {}, is the {} to the left or the right of the {}?"


@pytest.fixture(scope="module")
def known() -> KnownQuestions:
    config = VegaConfig.from_pretrained(ASSETS / "vega3d-tiny")
    return KnownQuestions.from_config(config.questions)


def asked(question: str, options: tuple[str, ...] = (), number: bool = False) -> SpatialQuestion:
    return SpatialQuestion(None, question, options, is_numeric=number)


def nearest(note: str) -> SpatialQuestion:
    """The question that a note tells, as it says that it is to be asked."""
    text, how = re.fullmatch(
        r'.*answers? means nothing\. The nearest that it can answer: "(.+)" \(answer: (.+)\)', note
    ).groups()
    options = tuple(how.removeprefix("a choice of ").split(" / ")) if how.startswith("a choice") else ()
    return asked(text, options, how == "a number")


def test_every_example_but_boxes_has_a_form(known):
    for by_category in load_examples().values():
        for example in by_category.values():
            note = known.note(asked(example.question, example.options, not example.options))
            assert (note is not None) == (example.category == "Which box")


OTHERS = {
    "another question": (asked("Which way is the lamp turned?"), "Show me the way to the lamp."),
    "another language": (asked("Où est la lampe ?"), None),
    "a number in place of free text": (
        asked("Where is the bed, from the first frame?", number=True),
        "Where is the bed, from the first frame?",
    ),
    "an object never seen": (
        asked("How many unicorn(s) are in this room?", number=True),
        "How many door(s) are in this room?",
    ),
    "a plural": (asked("How many chairs are broken?", number=True), "How many chairs are there?"),
    "a longer name first": (asked("What colour is the coffee table?"), "What size is the coffee table?"),
    "one letter more": (
        asked("How many desk(s) are in this roomy?", number=True),
        "How many desk(s) are in this room?",
    ),
    "small letters": (asked("how many unicorns are there?", number=True), "How many doors are there?"),
    "other options": (asked(CLOSEST.format("clock"), ("the bed", "the door")), CLOSEST.format("clock")),
    "a question without a known word": (asked("?"), None),
    "a name in place of another": (asked(LEFT_OF.format("bed", "door", "lamp", "chair"), ("left", "right")), None),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_question_is_told_the_nearest_that_is_answered(known, case):
    question, expected = OTHERS[case]

    note = known.note(question)

    assert "\n" not in note and "means nothing" in note
    assert expected is None or nearest(note).question == expected
    assert known.note(nearest(note)) is None  # who follows the note is told no more


def test_nobody_is_sent_to_a_guess(known):
    note = known.note(asked("Is the lamp to the left or the right of the bed?", ("left", "right")))

    assert "standing" not in note and "robot" not in note


def test_a_model_that_lists_nothing_says_nothing():
    assert KnownQuestions.from_config(None) is None
    assert notices(VegaConfig(), asked("Anything at all?")) == []


PLAIN = {  # a model of several wordings
    "names": ["bed", "sofa", "lamp", "shelf", "armchair"],
    "synonyms": {"sofa": ["couch"]},
    "forms": [
        {
            "text": "How many {a}(s) are in this room?",
            "answer": "number",
            "wordings": ["How many {plural a} are there?"],
            "in_words": True,
        },
        {"text": "Is there {an a} in the room?", "answer": "text", "wordings": ["Do you see {an a} anywhere?"]},
        {
            "text": "How far is the {a} from the {b} in {unit}?",
            "answer": "number",
            "units": ["metres", "feet"],
            "wordings": ["How far apart are the {a} and the {b}?"],
        },
        {
            "text": "Which of these ({a}, {b}, {c}) is nearest to the {d}?",
            "answer": "choice",
            "options": ["{a}", "{b}", "{c}"],
            "wordings": ["What is closest to the {d}?"],
        },
        {
            "text": "At which place is the {a}?",
            "answer": "choice",
            "options": ["row {#}, column {#}"],
            "suggested": False,
            "wordings": ["Which place shows the {a}?"],
        },
        {"text": "Describe the room.", "answer": "text"},  # by no other words
    ],
}
SILENT = {
    "a wording": asked("How many shelves are there?", number=True),
    "in plain words": asked("How many shelves are there?"),
    "a synonym in the plural, small letters, no mark": asked("how many couches are there"),
    "the first text": asked("How many couch(s) are in this room?", number=True),
    "an article": asked("Do you see an armchair anywhere?"),
    "nearly a wording": asked("How many beds are in this room, please?", number=True),
    "a unit": asked("How far is the couch from the bed in feet?", number=True),
    "no unit": asked("How far is the couch from the bed?", number=True),
    "options that the question names": asked(
        "Which of these (bed, couch, lamp) is nearest to the shelf?", ("bed", "couch")
    ),
    "options that it does not name": asked("What is closest to the shelf?", ("Lamp", "armchair", "couch")),
    "numbers": asked("Which place shows the lamp?", ("row 3, column 11", "row 12, column 0")),
    "one text alone": asked("Describe the room."),
}
TOLD = {
    "a number in place of words": (asked("Do you see a bed anywhere?", number=True), '"Do you see a bed anywhere?"'),
    "words in place of a number": (asked("How far apart are the bed and the lamp?"), "(answer: a number)"),
    "words in place of a choice": (asked("What is closest to the couch?"), '"What is closest to the couch?"'),
    "an unknown object": (asked("Do you see a unicorn anywhere?"), 'does not know "unicorn" and'),
    "an unknown unit": (asked("How far is the bed from the lamp in yards?", number=True), 'know "yards" and'),
    "an object too few": (asked("How far is the bed?", number=True), '"How far is the bed from the'),
    "one object twice": (asked("How far is the sofa from the couch?", number=True), '"How far'),
    "a word that asks for something else": (asked("How many soft beds are there?"), '"How many beds are there?"'),
    "options that are not asked about": (
        asked("Which of these (bed, couch, lamp) is nearest to the shelf?", ("armchair", "bed")),
        '"Which of these (bed, couch, lamp) is nearest to the shelf?" (answer: a choice of bed / couch / lamp)',
    ),
    "the same option twice": (asked("What is closest to the bed?", ("lamp", "lamp")), "What is closest to the bed?"),
    "options in other words": (asked("Which place shows the lamp?", ("row three", "row 4")), "(answer: "),
    "small letters of what is asked by no other words": (asked("describe the room."), '"Describe the room."'),
    "slots": (asked("How many {plural a} are there?"), '"How many beds are there?"'),
    "words of its own": (asked("{name} {unit}"), "means nothing"),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_model_of_several_wordings_takes_what_is_like_them(case):
    assert KnownQuestions.from_config(PLAIN).note(SILENT[case]) is None


@pytest.mark.parametrize("case", TOLD)
def test_a_model_of_several_wordings_says_what_it_does_not_know(case):
    question, said = TOLD[case]

    note = KnownQuestions.from_config(PLAIN).note(question)

    assert note is not None and "\n" not in note and said in note


BAD_FIELDS = {
    "no forms": {"names": ["bed"]},
    "no names": {"forms": []},
    "an unknown key": {"names": ["bed"], "forms": [{"text": "?", "answer": "text", "extra": 1}]},
    "an unknown answer": {"names": ["bed"], "forms": [{"text": "?", "answer": "essay"}]},
    "a form that is text": {"names": ["bed"], "forms": ["How many?"]},
    "a name that is a number": {"names": [5], "forms": []},
    "a text that is a number": {"names": ["bed"], "forms": [{"text": 5, "answer": "text"}]},
    "more slots than names": {"names": ["bed"], "forms": [{"text": "{a} or {b}?", "answer": "text"}]},
    "an option with a slot of its own": {
        "names": ["bed"],
        "forms": [{"text": "{a}?", "answer": "choice", "options": ["{b}"]}],
    },
    "forms that are a number": {"names": ["bed"], "forms": 5},
    "a wording with a slot of its own": {
        "names": ["bed"],
        "forms": [{"text": "{a}?", "answer": "text", "wordings": ["{b}?"]}],
    },
    "wordings that are text": {"names": ["bed"], "forms": [{"text": "?", "answer": "text", "wordings": "Why?"}]},
    "no unit": {"names": ["bed"], "forms": [{"text": "In {unit}?", "answer": "number"}]},
    "synonyms of no name": {"names": ["bed"], "forms": [], "synonyms": {"sofa": ["couch"]}},
    "a synonym that is a number": {"names": ["bed"], "forms": [], "synonyms": {"bed": [5]}},
    "names that are null": {"names": None, "forms": []},
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_field_of_another_shape_is_refused(case):
    with pytest.raises(ValueError, match="questions"):
        KnownQuestions.from_config(BAD_FIELDS[case])


def test_the_field_is_saved_with_the_model(tmp_path):
    folder = copy_frozen(tmp_path / "model", questions={"names": ["bed"], "forms": []})

    VegaConfig.from_pretrained(folder).save_pretrained(tmp_path / "again")

    assert VegaConfig.from_pretrained(tmp_path / "again").questions == {"names": ["bed"], "forms": []}
