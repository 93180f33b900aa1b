"""The points and boxes of SPAR's rows, drawn on their images as the authors of SPAR draw them.

A row names them in `spar_info`, by colour; its `type` says which are drawn, and on which of its images.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

THOUSANDTHS = 1000  # of an image's width or height, in which SPAR tells places
THICKNESS = 20  # [px], at any size of image: of a box's edge, and the radius of a point
FONT_SIZE = 60  # [px]; its capitals are about as high as those of the authors' font
GREEN, BLUE, WHITE = (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLORS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": BLUE, "yellow": (255, 255, 0)}  # as Pillow names them
FILM_COLORS = {"red": (255, 0, 0), "green": GREEN, "blue": BLUE, "yellow": (0, 225, 225)}
"""Those of videos with labels, where the authors' yellow is drawn with red and blue exchanged."""
# For each type its marks; `@2` is a place in `point_img_idx` or `bbox_img_idx`, which has the number of the image.
# Without `@` a mark is on the first image.
MARKS: dict[str, tuple[str, ...]] = {
    "obj_spatial_relation_oo": ("red_bbox", "blue_bbox"),
    "depth_prediction_oc": ("red_point", "blue_point"),
    "depth_prediction_oo": ("red_point", "blue_point", "green_point"),
    "distance_prediction_oc": ("red_point",),
    "distance_prediction_oo": ("red_point", "blue_point"),
    "distance_infer_center_oc": (),
    "distance_infer_center_oo": ("red_point", "blue_point", "green_point"),
    "spatial_volume_infer": ("red_bbox",),
    "spatial_imagination_oc": ("red_bbox", "blue_bbox", "green_bbox"),
    "spatial_imagination_oo": ("red_bbox", "blue_bbox", "green_bbox", "yellow_bbox"),
    "position_matching": ("red_bbox",),
    "view_change_infer": (),
    "camera_motion_infer": (),
    "depth_prediction_oc_mv": ("red_point@0", "blue_point@1"),
    "depth_prediction_oo_mv": ("red_point@0", "blue_point@1", "green_point@2"),
    "distance_prediction_oc_mv": ("red_point@0",),
    "distance_prediction_oo_mv": ("red_point@0", "blue_point@1"),
    "distance_infer_center_oc_mv": (),
    "distance_infer_center_oo_mv": ("red_point@0", "green_point@1", "blue_point@2"),
    "spatial_imagination_oc_mv": ("red_bbox@2", "green_bbox@0", "blue_bbox@1"),
    "spatial_imagination_oo_mv": ("red_bbox@2", "green_bbox@0", "blue_bbox@1", "yellow_bbox@3"),
    "distance_prediction_oo_video": ("red_point@0", "blue_point@1"),
    "spatial_imagination_oc_video": ("green_bbox@0", "blue_bbox@1", "red_bbox@2"),
    "spatial_imagination_oo_video": ("green_bbox@0", "blue_bbox@1", "red_bbox@2", "yellow_bbox@3"),
    "obj_frame_locate": ("red_bbox@0",),
    **dict.fromkeys(("spatial_imagination_oc_video_hard", "spatial_imagination_oo_video_hard"), ()),
    **dict.fromkeys(("appearance_order", "room_size", "obj_count", "nav"), ()),
}
NUMBERED = {"spatial_imagination_map_mv": "bbox", "distance_infer_center_oo_video": "point"}  # all of a list, labelled
SOME_OF_THREE = ("obj_spatial_relation_oc_mv", "obj_spatial_relation_oo_mv")  # boxes, of red, blue and green
LABELLED = ("spatial_imagination_oc_video", "spatial_imagination_oo_video")
TYPES = (*MARKS, *NUMBERED, *SOME_OF_THREE)


@dataclass(frozen=True)
class SparMark:
    """A point (two numbers) or a box (left, top, right, bottom) on an image.

    Attributes:
        place: in thousandths of the image's width and height.
        color: red, green, blue in [0, 255].
        label: text beside it; empty for none.
        is_numbered: whether it is one of a list, in green letters without a ground.
    """

    place: tuple[float, ...]
    color: tuple[int, int, int]
    label: str = ""
    is_numbered: bool = False


@dataclass(frozen=True)
class MarkedImage:
    """An image with the marks of a SPAR row to be drawn on it."""

    visual: Any
    marks: tuple[SparMark, ...]


def spar_info(row: Mapping) -> Mapping:
    """What a row says of its marks: `spar_info`, JSON text or an object, or the row itself, as SPAR-7M has it."""
    info = row.get("spar_info")
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"its `spar_info` is no JSON: {error}. Download the file again.") from error
    info = row if info is None else info
    if not isinstance(info, Mapping) or info.get("type") not in TYPES:
        kind = repr(info.get("type"))[:60] if isinstance(info, Mapping) else type(info).__name__
        raise ValueError(
            f"its `spar_info` says no type of SPAR (it is {kind}), so what to draw is not known. Types are "
            f"{', '.join(sorted(TYPES))}. For rows without marks use `format: llava`."
        )
    return info


def marks_of_images(info: Mapping, images: int) -> list[tuple[SparMark, ...]]:
    """For each of the images of a row the marks on it.

    Raises:
        ValueError: naming the mark that is not there, lies outside of its image, or is on an image that is not there.
    """
    found: list[list[SparMark]] = [[] for _ in range(images)]
    for number, mark in numbered_marks(info):
        if not isinstance(number, int) or not 0 <= number < images:
            raise ValueError(f"a mark is on image {number!r}, counted from 0, but the row has {images} image(s).")
        found[number].append(mark)
    return [tuple(marks) for marks in found]


def numbered_marks(info: Mapping) -> Iterator[tuple[Any, SparMark]]:
    """Each mark with the number of its image."""
    kind = info["type"]
    if kind in NUMBERED:
        shape = NUMBERED[kind]
        places, numbers = (only(info, name) for name in (f"{shape}_list", f"{shape}_img_idx"))
        if not (isinstance(places, list) and isinstance(numbers, list) and 0 < len(places) <= len(numbers)):
            raise ValueError(
                f"its `{shape}_list` and `{shape}_img_idx` are no lists of one length: {kind} needs them."
            )
        first = 1 if shape == "point" else 0  # points are A, 0, 1, ...; boxes 0, 1, ...
        for place, number in enumerate(numbers[: len(places)]):
            label = "objectA" if place < first else f"object{place - first}"
            yield number, SparMark(checked_place(places[place], shape, f"{shape}_list"), BLUE, label, True)
        return
    labels = kind in LABELLED
    colors = FILM_COLORS if labels else COLORS
    for order, entry in enumerate(entries(info)):
        name, _, which = entry.partition("@")
        color, _, shape = name.partition("_")
        image = image_number(info, f"{shape}_img_idx", int(which)) if which else 0
        label = f"object{order}" if labels else ""
        yield image, SparMark(checked_place(only(info, name), shape, name), colors[color], label)


def image_number(info: Mapping, name: str, place: int) -> Any:
    numbers = only(info, name)
    if not isinstance(numbers, list) or place >= len(numbers):
        raise ValueError(f"its `{name}` is {str(numbers)[:60]}, which has no place {place}, counted from 0. Mend it.")
    return numbers[place]


def entries(info: Mapping) -> tuple[str, ...]:
    """The marks of a type as `MARKS` writes them."""
    kind = info["type"]
    if kind not in SOME_OF_THREE:
        return MARKS[kind]
    there = [f"{color}_bbox" for color in ("red", "blue", "green") if info.get(f"{color}_bbox")]
    wanted = (1, 2, 3) if kind == SOME_OF_THREE[0] else (2,)
    if len(there) not in wanted:
        raise ValueError(f"{kind} needs {wanted} of red_bbox, blue_bbox and green_bbox, but the row has {there}.")
    same_image = kind == SOME_OF_THREE[0]
    return tuple(f"{name}@{0 if same_image else order}" for order, name in enumerate(there))


def only(info: Mapping, name: str) -> Any:
    """The one element of the list of a name: SPAR puts each value in a list of its own."""
    value = info.get(name)
    if value is None:
        raise ValueError(f"it has no `{name}`, which its type {info['type']} draws. Leave the row out, or mend it.")
    if not isinstance(value, list) or len(value) != 1:
        raise ValueError(f"its `{name}` is {str(value)[:60]}, but must be a list that holds one list.")
    return value[0]


def checked_place(value: Any, shape: str, name: str) -> tuple[float, ...]:
    length = 2 if shape == "point" else 4
    is_numbers = isinstance(value, list) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in value
    )
    is_place = is_numbers and len(value) == length and all(0 <= one <= THOUSANDTHS for one in value)
    if not is_place or (shape == "bbox" and (value[0] > value[2] or value[1] > value[3])):
        form = "x and y" if shape == "point" else "left, top, right and bottom"
        raise ValueError(f"its `{name}` is {str(value)[:60]}, but must be {form} in thousandths, 0 to {THOUSANDTHS}.")
    return tuple(value)


def draw_spar_marks(frame: np.ndarray, marks: tuple[SparMark, ...]) -> np.ndarray:
    """uint8[H, W, 3], a copy with the marks; sizes are in pixels of this image, so draw before it is resized."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    for mark in marks:
        sides = (image.width, image.height) * 2
        place = [value / THOUSANDTHS * side for value, side in zip(mark.place, sides, strict=False)]
        if len(place) == 2:
            x, y = map(int, place)
            draw.ellipse((x - THICKNESS, y - THICKNESS, x + THICKNESS, y + THICKNESS), fill=mark.color)
        else:
            # The edge of a labelled box begins 10 px outside of its place, that of another 2.5 px inside.
            out = THICKNESS * 3 / 2 if mark.label else THICKNESS * 7 / 8
            left, top, right, bottom = map(int, map(sum, zip(place, (-out, -out, out, out), strict=True)))
            draw.rectangle((left, top, right, bottom), outline=mark.color, width=THICKNESS)
        if mark.label:
            draw_label(draw, place, mark, image.height)
    return np.array(image)


def draw_label(draw: ImageDraw.ImageDraw, place: list[float], mark: SparMark, height: int) -> None:
    """The text right below a point, or below the right corner of a box; above that, where the image ends."""
    font = ImageFont.load_default(FONT_SIZE)
    if len(place) == 2:
        draw.text((place[0] + THICKNESS, place[1] + THICKNESS), mark.label, GREEN, font, "ls", stroke_width=2)
        return
    left, top, right, bottom = draw.textbbox((place[2], place[3]), mark.label, font, "rt", stroke_width=2)
    up = bottom - place[3] + 5 if bottom > height else 0
    if not mark.is_numbered:
        draw.rectangle((left, top - up, right, bottom - up), fill=mark.color)
    color = GREEN if mark.is_numbered else WHITE
    draw.text((place[2], place[3] - up), mark.label, color, font, "rt", stroke_width=2)
