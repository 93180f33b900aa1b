"""What patches show and where, and the readings of both."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fitting import fit
from research.tiny.study.points import (
    ORACLE_CHANNELS,
    REACH,
    SIZES,
    STEP,
    TURNS,
    PlaceCodes,
    PointHead,
    name_loss,
    oracle_features,
    patch_points,
    point_classes,
)
from research.tiny.study.tower import LEAST_SHARE, PATCH, LabelHead, patch_labels
from vega3d.geometry import intrinsics_from_field_of_view, look_at
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.render import Clip
from vega3d.rooms.scene.classes import CLASSES

EYE = (1.0, 2.0, 1.5)
GRID = (2, 2, 3)


def wall_clip(directions: list[tuple[float, float]], depth: float) -> Clip:
    """A camera that turns on the spot, and always has a plane at the same depth before it."""
    poses = np.stack([look_at(EYE, (EYE[0] + x, EYE[1] + y, EYE[2])) for x, y in directions])
    size = 4 * PATCH
    frames = np.zeros((len(poses), size, size), np.float32)
    return Clip(frames, frames + depth, frames, poses, intrinsics_from_field_of_view(size, size, 90.0))


def test_points_are_those_of_the_first_camera_while_it_turns():
    points = patch_points(wall_clip([(0, 1), (1, 0), (-1, 0), (0, -1)], 2.0))
    assert points.shape == (4, 4, 4, 5) and points.dtype == np.float16
    depth, turn, ahead, right, up = np.moveaxis(points.astype(float), -1, 0)
    assert depth == pytest.approx(2.0)
    assert np.degrees(turn[:, 0, 0]) == pytest.approx([0, 90, -90, 180], abs=0.1)  # to the right first
    # At 90 degrees the middles of patches look 1.5, 0.5, -0.5, -1.5 m to the left of a plane 2 m away.
    assert ahead[0] == pytest.approx(2.0, abs=5e-2) and right[0, 0] == pytest.approx([-1.5, -0.5, 0.5, 1.5], abs=5e-2)
    assert right[1] == pytest.approx(2.0, abs=5e-2) and ahead[1, 0] == pytest.approx([1.5, 0.5, -0.5, -1.5], abs=5e-2)
    assert up[0, :, 0] == pytest.approx([1.5, 0.5, -0.5, -1.5], abs=5e-2)


def test_classes_round_to_half_metres_and_turns_of_15_degrees():
    points = torch.tensor([[1.3, np.radians(-20), -0.9, 50.0, 0.0], [100.0, np.radians(352.6), 0.2, -50.0, 0.0]])
    assert point_classes(points).tolist() == [
        [3, TURNS - 1, REACH - 2, 2 * REACH],
        [REACH, 0, REACH, 0],
    ]
    assert (STEP, oracle_features(points).shape) == (0.5, (2, ORACLE_CHANNELS))


def test_tokens_of_two_frames_have_the_points_and_labels_of_the_first(toy):
    data = toy.data("train")
    one, two = data.points([0, 1], 1), data.points([0, 1], 2)
    assert one.shape == (2, 5 * 16, 5) and two.shape == (2, 3 * 16, 5)
    assert np.array_equal(two.reshape(2, 3, 16, 5), one.reshape(2, 5, 16, 5)[:, ::2])
    assert np.array_equal(data.token_labels([1], 2)[0].reshape(3, 4, 4), data.labels([1])[0, ::2])


def test_points_of_an_object_lie_at_its_place_on_the_plan(toy):
    """The middle of an object is within 1.5 m of what its patches show, in whichever frame."""
    data, shown = toy.data("train"), 0
    for clip, plan in enumerate(data.plans):
        labels, points = data.labels([clip])[0].flatten(), data.points([clip], 1)[0].astype(float)
        for text in plan.split(", "):
            *name, ahead, along, right, across = text.split()
            seen = points[labels == 1 + CLASSES.index(" ".join(name))]
            if len(seen):
                place = float(ahead) * (1 if along == "ahead" else -1), float(right) * (1 if across == "right" else -1)
                assert np.abs(np.median(seen[:, 2:4], axis=0) - place).max() <= 1.5, name
                shown += 1
    assert shown >= 2


def test_the_point_head_reads_each_pair_from_its_own_states():
    torch.manual_seed(0)
    head, states = PointHead(16), [torch.randn(2, 6, 16) for _ in range(2)]
    classes = torch.stack([torch.randint(0, size, (2, 6)) for size in SIZES], dim=-1)
    assert fit(head.parameters(), lambda: head.loss(*states, classes)) < 0.05
    for number in range(2):
        changed = [torch.randn(2, 6, 16) if number == place else one for place, one in enumerate(states)]
        assert head.loss(*changed, classes) > 0.5


def test_errors_are_in_metres_and_degrees_and_a_turn_is_a_circle():
    head, classes = PointHead(8), torch.tensor([[[2, 1, 10, 5], [4, 0, 10, 5]]])
    wrong = torch.tensor([[[3, TURNS - 1, 10, 9], [4, 1, 12, 5]]])
    head.forward = lambda near, mapped: [  # type: ignore[method-assign]
        torch.nn.functional.one_hot(wrong[..., number], size).float() for number, size in enumerate(SIZES)
    ]
    states = torch.zeros(1, 2, 8)
    degrees = 360 / TURNS
    assert head.errors(states, states, classes).tolist() == [[STEP / 2, (2 + 1) / 2 * degrees, STEP, 2 * STEP]]


def test_a_patch_is_the_class_that_fills_most_of_it():
    ids = np.zeros((2, 2 * PATCH, 3 * PATCH), int)
    ids[0, :PATCH, :PATCH] = 1
    ids[0, :PATCH, PATCH : PATCH + 10], ids[0, :PATCH, PATCH + 10 : 2 * PATCH] = 2, 3
    least = int(np.ceil(LEAST_SHARE * PATCH * PATCH))
    ids[1, :PATCH, :PATCH].flat[: least - 1] = 2
    block = np.zeros(PATCH * PATCH, int)
    block[:least] = 3
    ids[1, PATCH:, 2 * PATCH :] = block.reshape(PATCH, PATCH)
    objects = tuple(SimpleNamespace(id=number, name=CLASSES[5 * number]) for number in (1, 2, 3))
    wanted = np.zeros((2, 2, 3), np.uint8)
    wanted[0, 0, 0], wanted[0, 0, 1], wanted[1, 1, 2] = 1 + 5, 1 + 10, 1 + 15
    found = patch_labels(Observation(objects, ids.astype(np.uint16), 10.0))
    assert found.dtype == np.uint8 and np.array_equal(found, wanted)
    with pytest.raises(ValueError, match="Frames of 20 x 32 px are no whole patches"):
        patch_labels(Observation(objects, np.zeros((1, 20, 32), np.uint16), 10.0))


def test_the_label_head_learns_patches_of_both_frames_of_a_token():
    torch.manual_seed(0)
    head, tokens = LabelHead(24, 2), torch.randn(3, 12, 24)
    labels = torch.randint(0, 50, (3, 3, 2, 3))
    assert head(tokens, GRID).shape == (3, 4, 2, 3, len(CLASSES) + 1)
    assert fit(head.parameters(), lambda: head.loss(tokens, labels, GRID)) < 0.1
    assert (head(tokens, GRID).argmax(-1)[:, :3] == labels).all()


def test_states_learn_their_places_by_codes_that_stay():
    torch.manual_seed(0)
    codes, states = PlaceCodes(24, GRID), torch.nn.Parameter(torch.randn(3, 12, 24))
    assert torch.equal(codes.codes, PlaceCodes(24, GRID).codes)
    assert fit([states], lambda: codes.loss(states)) < 0.2
    t, h, w = (logits.argmax(-1) for logits in (states @ codes.codes.T).split(GRID, dim=-1))
    assert (h * 3 + w + t * 6 == torch.arange(12)).all()


def test_states_learn_the_names_of_what_they_show_and_nothing_of_nothing():
    torch.manual_seed(0)
    names, labels = torch.randn(5, 24), torch.tensor([[1, 0, 5, 3]])
    states = torch.nn.Parameter(torch.randn(1, 4, 24))
    before = states[0, 1].detach().clone()
    assert fit([states], lambda: name_loss(states, labels, names)) < 0.2
    assert (states @ torch.nn.functional.normalize(names, dim=-1).T).argmax(-1)[0, [0, 2, 3]].tolist() == [0, 4, 2]
    assert torch.equal(states[0, 1], before)
