"""Where in the room each visual token looks."""

import json

import numpy as np
import pytest
import torch

from fitting import fit
from research.tiny.study.cells import CELL
from research.tiny.study.map_rows import REACH, STEP
from research.tiny.study.point_map import SIZES, TURNS, PointHead, cell_points
from research.tiny.study.runner import Experiment
from vega3d.geometry import intrinsics_from_field_of_view, look_at
from vega3d.rooms.render import Clip
from vega3d.rooms.scene.classes import CLASSES

EYE = (1.0, 2.0, 1.5)


def wall_clip(directions: list[tuple[float, float]], depth: float) -> Clip:
    """A camera that turns on the spot, and always has a plane at the same depth before it."""
    poses = np.stack([look_at(EYE, (EYE[0] + x, EYE[1] + y, EYE[2])) for x, y in directions])
    size = 4 * CELL
    frames = np.zeros((len(poses), size, size), np.float32)
    return Clip(frames, frames + depth, frames, poses, intrinsics_from_field_of_view(size, size, 90.0))


def test_points_are_told_from_the_first_camera_while_it_turns():
    points = cell_points(wall_clip([(0, 1), (1, 0), (-1, 0), (0, -1)], 2.0)).astype(int)
    assert points.shape == (4, 4, 4, 4)
    assert (points[..., 0] == 2.0 / STEP).all()
    assert points[:, 0, 0, 1].tolist() == [0, TURNS // 4, 3 * TURNS // 4, TURNS // 2]  # 90 degrees to the right first
    ahead, right = points[..., 2] - REACH, points[..., 3] - REACH
    # At 90 degrees the middles of cells look 1.5, 0.5, -0.5, -1.5 m to the left of a plane 2 m away.
    assert (ahead[0] == 4).all() and right[0, 0].tolist() == [-3, -1, 1, 3]
    assert (right[1] == 4).all() and ahead[1, 0].tolist() == [3, 1, -1, -3]
    assert (ahead[3] == -4).all() and right[3, 0].tolist() == [3, 1, -1, -3]


def test_what_is_far_is_told_as_the_farthest():
    points = cell_points(wall_clip([(0, 1)], 50.0))
    assert (points[..., 0] == REACH).all() and (points[..., 2] == 2 * REACH).all()


def test_points_of_an_object_lie_at_its_place_on_the_map(toy):
    """The middle of an object is within 1.5 m of what its cells show, in whichever frame."""
    data = toy.data("train", 0)
    shown = 0

    for clip, places in enumerate(data.maps):
        visual = next(number for number, one in enumerate(data.visuals) if one.clip == clip)
        (classes, _), points = data.cells_of([visual]), data.points_of([visual], 1)
        for name, place in places.items():
            seen = points[0][classes[0].flatten() == 1 + CLASSES.index(name)]
            if len(seen):
                away = (np.median(seen[:, 2:], axis=0) - REACH - (place.ahead, place.right)) * STEP
                assert np.abs(away).max() <= 1.5, name
                shown += 1

    assert shown >= 2


def test_tokens_of_two_frames_have_the_points_of_the_first(toy):
    data = toy.data("train", 1)
    one, two = data.points_of([0, 1], 1), data.points_of([0, 1], 2)
    assert one.shape == (2, 5 * 16, 4) and two.shape == (2, 3 * 16, 4)
    assert np.array_equal(two.reshape(2, 3, 16, 4), one.reshape(2, 5, 16, 4)[:, ::2])
    assert (one >= 0).all() and (one < SIZES).all()


@pytest.mark.parametrize("number", [0, 1])
def test_the_head_reads_each_pair_from_its_own_states(number):
    torch.manual_seed(0)
    head, states = PointHead(16), [torch.randn(2, 6, 16) for _ in range(2)]
    points = torch.stack([torch.randint(0, size, (2, 6)) for size in SIZES], dim=-1)
    assert fit(head.parameters(), lambda: head.loss(*states, points)) < 0.05
    states[number] = torch.randn(2, 6, 16)
    assert head.loss(*states, points) > 0.5


def test_errors_are_in_metres_and_degrees_and_a_turn_is_a_circle():
    head, points = PointHead(8), torch.tensor([[[2, 1, 10, 5], [4, 0, 10, 5]]])
    wrong = torch.tensor([[[3, TURNS - 1, 10, 9], [4, 1, 12, 5]]])
    head.forward = lambda near, mapped: [  # type: ignore[method-assign]
        torch.nn.functional.one_hot(wrong[..., number], size).float() for number, size in enumerate(SIZES)
    ]
    states = torch.zeros(1, 2, 8)
    degrees = 360 / TURNS
    assert head.errors(states, states, points).tolist() == [[STEP / 2, (2 + 1) / 2 * degrees, STEP, 2 * STEP]]


def test_each_finished_run_says_how_far_off_its_points_are(toy, tmp_path):
    """In training and after it, of the same scenes; an arm that is not finished is named."""
    errors = json.loads((toy.own / "base" / "points.json").read_text())
    scenes = {row.scene for row in toy.data("validation", 1).rows}
    assert set(errors) == scenes and all(len(row) == 4 and min(row) >= 0 for row in errors.values())
    with pytest.raises(ValueError, match=r"trained/seed0/points\.json, .* Train these"):
        Experiment(toy.recipe, tmp_path).point_errors(["trained"])
