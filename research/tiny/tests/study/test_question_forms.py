"""The forms of questions that an exported model lists: they cover what rooms and floor plans ask."""

from pathlib import Path

import numpy as np

from research.tiny.study.answers import FloorPlan, Place
from research.tiny.study.question_forms import FORMS, trained_questions
from research.tiny.study.recipe import read_recipe
from research.tiny.study.rows import plan_rows
from vega3d.questions import KnownQuestions, SpatialQuestion
from vega3d.rooms import load_furniture, sample_scene, sample_trajectory, scene_seed
from vega3d.rooms.questions.observation import observe
from vega3d.rooms.questions.questions import QUESTION_MAKERS, shuffled_candidates
from vega3d.rooms.render.embree import EmbreeRenderer

RECIPE = Path(__file__).parents[2] / "configs" / "study.yaml"


def asked(question: str, options: tuple[str, ...] = (), number: bool = False) -> SpatialQuestion:
    return SpatialQuestion(None, question, options, is_numeric=number)


def test_every_question_of_the_rooms_has_a_form():
    scene = sample_scene(scene_seed("validation", 4), load_furniture(), "bedroom")
    clip = EmbreeRenderer(scene).render(sample_trajectory(scene, 1, 16), 128, 96)
    observation = observe(scene, clip.instance)
    known = KnownQuestions.from_config(trained_questions(list(QUESTION_MAKERS), ()))
    assert set(FORMS) == set(QUESTION_MAKERS)

    made = [
        question
        for name in QUESTION_MAKERS
        for question in shuffled_candidates(name, observation, np.random.default_rng(0))[:20]
    ]

    assert {question.question_type for question in made} >= set(QUESTION_MAKERS) - {"localisation_by_choice"}
    for question in made:
        assert known.note(asked(question.question, question.options, not question.options)) is None, question.question


def test_every_question_of_the_floor_plan_has_a_form():
    known = KnownQuestions.from_config(trained_questions(read_recipe(RECIPE).categories, ()))
    rows = list(plan_rows(FloorPlan({"bed": Place(1, 2, 3), "coffee table": Place(-1, -2, 4)})))

    assert [known.note(asked(question)) for _, question, _ in rows] == [None] * 4
