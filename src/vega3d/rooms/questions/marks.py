"""The boxes of a question about marked objects: drawn into a frame with their letters, or told in words."""

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vega3d.questions import Mark, SpatialQuestion

if TYPE_CHECKING:  # what it imports makes questions, which no drawing needs
    from vega3d.rooms.questions.questions import GeometricQuestion

COLORS = ((230, 40, 40), (30, 110, 255), (255, 210, 0), (0, 200, 120), (255, 255, 255), (200, 90, 220))
OUTLINE = (0, 0, 0)
SMALLEST_LETTER = 11  # [px]
GRID = 12  # rows and columns by which a box is told in words, counted from 0
MARKED = "marked boxes"  # in a question
MarkedQuestion = TypeVar("MarkedQuestion", bound="SpatialQuestion | GeometricQuestion")


def in_words(question: MarkedQuestion, frame: int, width: int, height: int) -> MarkedQuestion:
    """The question with its boxes told in words, such as `frame 7, row 5, column 9`, in place of being drawn.

    Args:
        question: with `marks`, and the options `box A`, `box B`, ...
        frame: number of the frame with the boxes among those that the model sees, from 0.
        width, height: of the frame [px].

    Raises:
        ValueError: if the options are others: what they say of the boxes cannot be told.
    """
    boxes = [f"box {letter}" for letter in string.ascii_uppercase[: len(question.marks)]]
    if list(question.options) != boxes:
        raise ValueError(
            f"The model takes boxes in words, which stand in the place of the options {', '.join(boxes)}, but the "
            f"options are {list(question.options)}. Give those."
        )
    check_boxes(question.marks, width, height)
    text = question.question.replace(MARKED, "boxes")
    told = tuple(box_text(mark, frame, width, height) for mark in question.marks)
    return replace(question, question=text, options=told, frame=None, marks=())


def box_text(mark: Mark, frame: int, width: int, height: int) -> str:
    """Where the middle of a box is: frame, and row and column of `GRID`."""
    left, top, right, bottom = mark
    row, column = (top + bottom) * GRID // (2 * height), (left + right) * GRID // (2 * width)
    return f"frame {frame}, row {row}, column {column}"


def draw_marks(frame: np.ndarray, marks: Sequence[Sequence[int]]) -> np.ndarray:
    """Draws box A, box B, ...: a coloured edge with a black line around it, and a tag with its letter.

    The tag stands above the box, at its left edge; where there is no room, inside the box, and where another tag is in
    the way, at the next corner that is free.

    Args:
        frame: uint8[H, W, 3].
        marks: left, top, right, bottom [px] of each box, right and bottom exclusive, in the frame.

    Returns:
        uint8[H, W, 3], a copy.

    Raises:
        ValueError: if there are more boxes than letters, or a box is empty or lies outside the frame.
    """
    height, width = frame.shape[:2]
    check_boxes(marks, width, height)
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    size = max(SMALLEST_LETTER, round(min(height, width) / 18))
    line = max(1, round(min(height, width) / 160))
    for number, (left, top, right, bottom) in enumerate(marks):
        draw.rectangle((left - line, top - line, right - 1 + line, bottom - 1 + line), outline=OUTLINE, width=line)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=COLORS[number % len(COLORS)], width=line)
    taken: list[tuple[int, int]] = []
    for number, mark in enumerate(marks):  # after all edges, so that none crosses a letter
        edge = size + 2 * line
        place = free_corner(mark, edge, width, height, taken)
        taken.append(place)
        draw_tag(draw, place, edge, size, number)
    return np.array(image)


def check_boxes(marks: Sequence[Sequence[int]], width: int, height: int) -> None:
    if len(marks) > len(string.ascii_uppercase):
        raise ValueError(f"Got {len(marks)} marks, but there are {len(string.ascii_uppercase)} letters.")
    for left, top, right, bottom in marks:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"The mark {[left, top, right, bottom]} is empty or not inside the frame of {width}x{height} px. Give "
                "left, top, right, bottom at the video's own size."
            )


def free_corner(
    mark: Sequence[int], edge: int, width: int, height: int, taken: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Left and top of a square tag [px]: the first place by the box, inside the frame, that overlaps no other tag."""
    left, top, right, bottom = mark
    outside = [(left, top - edge), (right - edge, top - edge), (left, bottom), (right - edge, bottom)]
    inside = [(left, top), (right - edge, top), (left, bottom - edge), (right - edge, bottom - edge)]
    ranked = []
    for order, (x, y) in enumerate((*outside, *inside)):
        place = min(max(x, 0), width - edge), min(max(y, 0), height - edge)
        overlaps = any(abs(place[0] - x) < edge and abs(place[1] - y) < edge for x, y in taken)
        ranked.append((overlaps, place != (x, y), order, place))
    return min(ranked)[-1]


def draw_tag(draw: ImageDraw.ImageDraw, place: tuple[int, int], edge: int, size: int, number: int) -> None:
    color = COLORS[number % len(COLORS)]
    is_dark = 0.3 * color[0] + 0.6 * color[1] + 0.1 * color[2] < 140
    draw.rectangle((*place, place[0] + edge - 1, place[1] + edge - 1), fill=color, outline=OUTLINE)
    center = place[0] + edge / 2, place[1] + edge / 2
    letter = string.ascii_uppercase[number]
    font = ImageFont.load_default(size)
    draw.text(center, letter, font=font, fill=(255, 255, 255) if is_dark else (0, 0, 0), anchor="mm")
