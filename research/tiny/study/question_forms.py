"""The forms of the questions that a recipe trains on, for its model's config and for the words of its tokenizer."""

from collections.abc import Container, Sequence

from vega3d.questions import CHOICE, NUMBER, TEXT
from vega3d.rooms.scene.classes import BUILT, CLASSES

PLACE, FIRST_FRAME = PLAN_KINDS = ("place", "first_frame")  # of rows about the floor plan
CELL = "cell"  # what a place of a frame shows
ROUTE = (
    "You are a robot beginning at the {a} and facing the {b}. You want to navigate to the {%s}. You will perform the "
    "following actions (Note: for each [please fill in], choose either 'turn back,' 'turn left,' or 'turn right.'): "
    "1. Go forward until the {b}. 2. [please fill in]. 3. Go forward until the {c}. %sYou have reached the final "
    "destination."
)
FORMS = {  # {a} to {e}: names of objects; the words of `rooms/questions/questions.py`
    "object_abs_distance": "Measuring from the closest point of each object, what is the distance between the {a} and "
    "the {b} (in meters)?",
    "object_size_estimation": "What is the length of the longest dimension (length, width, or height) of the {a}, "
    "measured in centimeters?",
    "room_size_estimation": "What is the size of this room (in square meters)? If multiple rooms are shown, estimate "
    "the size of the combined space.",
    "object_rel_distance": "Measuring from the closest point of each object, which of these objects ({a}, {b}, {c}, "
    "{d}) is the closest to the {e}?",
    "object_rel_direction_easy": "If I am standing by the {a} and facing the {b}, is the {c} to the left or the right "
    "of the {b}?",
    "object_rel_direction_medium": "If I am standing by the {a} and facing the {b}, is the {c} to my left, right, or "
    "back? An object is to my back if I would have to turn at least 135 degrees in order to face it.",
    "object_rel_direction_hard": "If I am standing by the {a} and facing the {b}, is the {c} to my front-left, "
    "front-right, back-left, or back-right? The directions refer to the quadrants of a Cartesian plane (if I am "
    "standing at the origin and facing along the positive y-axis).",
    "route_planning": ROUTE % ("c", ""),
    "obj_appearance_order": "What will be the first-time appearance order of the following categories in the video: "
    "{a}, {b}, {c}, {d}?",
    "localisation_by_choice": "Which of the four marked boxes is the {a} that is the closest to the {b}?",
    "object_counting": "How many {a}(s) are in this room?",
}
LONG_ROUTE = ROUTE % ("d", "4. [please fill in]. 5. Go forward until the {d}. ")
PLAN_FORMS = {  # the words of `rows.plan_rows`
    PLACE: "Where is the {a}, from the first frame?",
    FIRST_FRAME: "In which frame is the {a} first seen?",
}
CELL_FORM = "What is in {place}?"  # a place as options tell boxes
OPTIONS = {
    "object_rel_distance": ["{a}", "{b}", "{c}", "{d}"],
    "object_rel_direction_easy": ["left", "right"],
    "object_rel_direction_medium": ["left", "right", "back"],
    "object_rel_direction_hard": ["front-left", "front-right", "back-left", "back-right"],
    "route_planning": ["Turn Left", "Turn Right", "Turn Back"],
    "localisation_by_choice": ["box A", "box B", "box C", "box D"],
    "obj_appearance_order": ["{a}, {b}, {c}, {d}", "{d}, {c}, {b}, {a}", "{b}, {a}, {d}, {c}", "{c}, {d}, {a}, {b}"],
}
MARKED = "localisation_by_choice"  # about boxes on a frame; the words of its options come with them
TOLD_BOXES = FORMS[MARKED].replace("marked boxes", "boxes")  # with the boxes told in the options (`marks.in_words`)


def trained_questions(categories: Sequence[str], guesses: Container[str]) -> dict:
    """The field `questions` of the config of a model.

    Args:
        categories: question types that it was trained on, beside those of the floor plan.
        guesses: those of them that it answers no better than a guess.
    """
    forms = []
    for name in categories:
        answer = CHOICE if name in OPTIONS else NUMBER
        suggested = name not in guesses and name != MARKED
        for text in (FORMS[name], LONG_ROUTE) if name == "route_planning" else (FORMS[name],):
            form = {"text": text, "answer": answer, "options": OPTIONS.get(name, []), "suggested": suggested}
            forms.append({**form, "marked": True} if name == MARKED else form)
    forms += [{"text": text, "answer": TEXT} for text in PLAN_FORMS.values()]
    return {"names": [*BUILT, *(name for name in CLASSES if name not in BUILT)], "forms": forms}
