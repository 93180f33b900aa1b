"""Styles: what a room is made of and in which colours. `test_unseen` has one of its own."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vega3d.rooms.scene import SPLITS, UNSEEN_SPLIT, builders, materials
from vega3d.rooms.scene.furniture import Model
from vega3d.rooms.scene.materials import Colours, Random, Tiler

SOFT = ("armchair", "sofa", "bed", "towel", "handbag", "shoes", "chair")
HARD = ("wardrobe", "desk", "table", "nightstand", "crib", "stool", "box")
MIXED = ("cabinet", "lamp", "trash can")
CUPS = ("cup", "bottle")


class Style(NamedTuple):
    """What the rooms of a split are made of."""

    floors: tuple[Tiler, ...]  # one of them is drawn for a room
    wallpapers: tuple[Tiler, ...]  # likewise
    ceiling: Tiler  # the same for every room
    skirting: np.ndarray  # uint8[1, 1, 3], colour of the skirting boards
    builders: dict[str, Callable[[Random], Model]]  # what makes the things that are built from boxes, by class
    palettes: dict[str, Colours]  # colours that a thing from the pack may take instead of its own, by class
    ratios: tuple[float, float]  # least and greatest of a room's width divided by its depth
    lights: int  # in a row over each rectangle of the floor


def palettes(woods: Colours, cloths: Colours, neutrals: Colours) -> dict[str, Colours]:
    """The colours of each class whose things are coloured anew."""
    return {
        **dict.fromkeys(SOFT, cloths + neutrals),
        **dict.fromkeys(HARD, woods + neutrals),
        **dict.fromkeys(MIXED, woods + cloths + neutrals),
        **dict.fromkeys(CUPS, cloths),
    }


FAMILIAR = Style(
    floors=materials.FLOORS,
    wallpapers=materials.WALLPAPERS,
    ceiling=materials.white,
    skirting=np.array([[[238, 237, 232]]], np.uint8),
    builders=builders.BUILDERS,
    palettes=palettes(
        materials.FAMILIAR.woods,
        materials.FAMILIAR.cloths,
        ((228, 226, 220), (196, 194, 190), (120, 122, 126), (62, 62, 66)),
    ),
    ratios=(0.72, 1.4),
    lights=1,
)

UNSEEN = Style(
    floors=materials.UNSEEN_FLOORS,
    wallpapers=materials.UNSEEN_WALLPAPERS,
    ceiling=materials.boarded_ceiling,
    skirting=np.array([[[112, 84, 66]]], np.uint8),
    builders=builders.UNSEEN_BUILDERS,
    palettes=palettes(
        materials.UNSEEN.woods,
        materials.UNSEEN.cloths,
        ((238, 230, 216), (210, 200, 190), (150, 142, 136), (84, 88, 80)),
    ),
    ratios=(1.45, 1.9),
    lights=2,
)

STYLES: dict[str, Style] = {split: UNSEEN if split == UNSEEN_SPLIT else FAMILIAR for split in SPLITS}
