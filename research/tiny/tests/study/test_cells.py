"""What visual tokens are told in stage 0."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fitting import fit
from research.tiny.study.cells import CELL, LEAST_SHARE, CellHead, PlaceCodes, cell_classes, cell_marks
from research.tiny.study.packs import IGNORED
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.scene.classes import CLASSES

GRID = (2, 2, 3)


def seen(ids: np.ndarray) -> Observation:
    objects = tuple(SimpleNamespace(id=number, name=CLASSES[5 * number]) for number in (1, 2, 3))
    return Observation(objects, ids.astype(np.uint16), 10.0)


def test_a_cell_is_the_class_that_fills_most_of_it():
    ids = np.zeros((2, 2 * CELL, 3 * CELL), int)
    ids[0, :CELL, :CELL] = 1
    ids[0, :CELL, CELL : CELL + 10], ids[0, :CELL, CELL + 10 : 2 * CELL] = 2, 3
    least = int(np.ceil(LEAST_SHARE * CELL * CELL))
    ids[1, :CELL, :CELL].flat[: least - 1] = 2
    block = np.zeros(CELL * CELL, int)
    block[:least] = 3
    ids[1, CELL:, 2 * CELL :] = block.reshape(CELL, CELL)
    cells = cell_classes(seen(ids))
    wanted = np.zeros((2, 2, 3), np.uint8)
    wanted[0, 0, 0], wanted[0, 0, 1], wanted[1, 1, 2] = 1 + 5, 1 + 10, 1 + 15

    assert cells.dtype == np.uint8 and np.array_equal(cells, wanted)
    with pytest.raises(ValueError, match="Frames of 20 x 32 px are no whole cells"):
        cell_classes(seen(np.zeros((1, 20, 32))))


def test_a_cell_is_in_the_smallest_box_that_reaches_into_it():
    marks = cell_marks([(0, 0, 48, 48), (17, 17, 30, 31), (40, 0, 64, 10)], 4, 4)
    assert marks.tolist() == [[1, 1, 3, 3], [1, 2, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_cells_lie_where_the_frames_show_the_objects(toy):
    data = toy.data("train", 0)
    number = next(number for number, visual in enumerate(data.visuals) if visual.marks)
    classes, marks = data.cells_of([number, 0])
    assert classes.shape == marks.shape == (2, 5, 4, 4) and classes.max() <= len(CLASSES) and classes.any()

    frame = data.visuals[number].frame
    is_marked = np.zeros(5, bool)
    is_marked[frame] = True

    assert (marks[0][~is_marked] == IGNORED).all() and (marks[0][is_marked] >= 0).all() and (marks[1] == IGNORED).all()
    for letter, row in enumerate(row for row in data.rows if row.visual == number):
        at = classes[0, frame][marks[0, frame] == 1 + letter]
        if len(at) and row.kind == "name":
            assert 1 + CLASSES.index(row.answer) in at


def test_the_head_learns_cells_of_both_frames_of_a_token():
    torch.manual_seed(0)
    head = CellHead(24, 2, GRID)
    tokens = torch.randn(3, 12, 24)
    classes, marks = torch.randint(0, 50, (3, 3, 2, 3)), torch.full((3, 3, 2, 3), IGNORED)
    marks[0, 1] = torch.randint(0, 5, (2, 3))
    found = head(tokens)
    assert found[0].shape == (3, 4, 2, 3, len(CLASSES) + 1) and found[1].shape == (3, 4, 2, 3, 5)
    assert fit(head.parameters(), lambda: head.loss(tokens, classes, marks)) < 0.1
    of_classes, of_marks = (logits.argmax(-1)[:, :3] for logits in head(tokens))
    assert (of_classes == classes).all() and (of_marks[0, 1] == marks[0, 1]).all()


def test_states_learn_their_places_by_codes_that_stay():
    torch.manual_seed(0)
    codes, states = PlaceCodes(24, GRID), torch.nn.Parameter(torch.randn(3, 12, 24))
    assert torch.equal(codes.codes, PlaceCodes(24, GRID).codes)
    assert fit([states], lambda: codes.loss(states)) < 0.2
    t, h, w = (logits.argmax(-1) for logits in (states @ codes.codes.T).split(GRID, dim=-1))
    assert (h * 3 + w + t * 6 == torch.arange(12)).all()
