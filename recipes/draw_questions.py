"""Draws one room: colour, depth and instances of its walkthrough, and a question of each type with its answer.

python recipes/draw_questions.py docs/results/rooms.webp
"""

import argparse
import textwrap
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from palette import save_palette

from vega3d.files import write_whole
from vega3d.rooms import load_furniture, sample_scene, sample_trajectory, scene_seed
from vega3d.rooms.dataset.card import depth_colours, instance_colours
from vega3d.rooms.questions.marks import draw_marks
from vega3d.rooms.questions.observation import observe
from vega3d.rooms.questions.questions import QUESTION_MAKERS, GeometricQuestion, make_questions
from vega3d.rooms.render import Clip
from vega3d.rooms.render.embree import EmbreeRenderer

ROOM, KIND, TRAJECTORY = 4, "bedroom", 1  # the example clip `room`
WIDTH, HEIGHT, NUM_FRAMES, SHOWN = 384, 288, 32, 4


def question_text(question: GeometricQuestion) -> str:
    options = "  ".join(f"{letter}. {text}" for letter, text in zip("ABCD", question.options, strict=False))
    whole = f"{question.question} {options}"
    title = question.question_type.replace("_", " ")
    return f"{title}: {textwrap.fill(whole, 190, break_on_hyphens=False)}  → {question.answer}"


def draw(path: Path, clip: Clip, questions: list[GeometricQuestion]) -> None:
    chosen = np.linspace(0, NUM_FRAMES - 1, SHOWN).round().astype(int)
    marked = next(question for question in questions if question.marks)
    assert marked.frame is not None
    rows = [clip.rgb[chosen], depth_colours(clip.depth[chosen]), instance_colours(clip.instance[chosen])]
    figure = pyplot.figure(figsize=(12, 11.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(6.3, 4.9))
    for axis, image in zip(top.subplots(3, SHOWN).flat, np.concatenate(rows), strict=True):
        axis.imshow(image)
        axis.set_axis_off()
    picture, words = bottom.subplots(2, 1, height_ratios=(2.2, 2.7))
    picture.imshow(draw_marks(clip.rgb[marked.frame], marked.marks))
    picture.set_title("the frame of the question of localisation by choice", fontsize=8)
    words.text(0, 1, "\n".join(map(question_text, questions)), va="top", fontsize=7.5, linespacing=1.35)
    for axis in (picture, words):
        axis.set_axis_off()
    save_palette(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    scene = sample_scene(scene_seed("validation", ROOM), load_furniture(), KIND)
    clip = EmbreeRenderer(scene).render(sample_trajectory(scene, TRAJECTORY, NUM_FRAMES), WIDTH, HEIGHT)
    questions = make_questions(observe(scene, clip.instance), (scene.seed, 3, TRAJECTORY), per_type=1)
    absent = set(QUESTION_MAKERS) - {question.question_type for question in questions}
    if absent:
        raise ValueError(f"The walkthrough has no question of the types {sorted(absent)}. Choose another.")
    write_whole(options.picture, partial(draw, clip=clip, questions=questions))


if __name__ == "__main__":
    main()
