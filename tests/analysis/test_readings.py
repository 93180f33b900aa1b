"""Targets of readings against calculations by hand, their errors, and what is refused."""

import dataclasses

import numpy as np
import pytest
from posed_clips import fit_of, plane_clip, room_clip
from scipy.spatial.transform import Rotation

from vega3d.analysis.clips import PosedClip
from vega3d.analysis.readings import (
    READINGS,
    clip_targets,
    median_direction,
    object_places,
    pose_metrics,
    pose_samples,
    probe_options,
    token_labels,
    token_targets,
    translation_first_samples,
    translation_samples,
    turn_first_metrics,
    turn_first_samples,
    turn_metrics,
    turn_samples,
)
from vega3d.geometry import look_at


def two_views() -> np.ndarray:
    """A camera at (1, 2, 1.5) that looks along world +x, then one 1 m ahead, 0.5 m left, turned 30 degrees right."""
    angle = np.radians(-30)  # from above, counter-clockwise: to the right is negative
    second = (2.0, 2.5, 1.5)
    ahead = np.array([np.cos(angle), np.sin(angle), 0])
    return np.stack([look_at((1, 2, 1.5), (2, 2, 1.5)), look_at(second, second + ahead)])


def test_motion_of_two_views_by_hand():
    poses = two_views()

    turn, first = turn_samples(poses), turn_first_samples(poses)
    assert turn.values == pytest.approx(np.array([[30.0]]))  # to the right
    assert (turn.view.tolist(), turn.other.tolist()) == ([1], [0])
    assert first.values == pytest.approx(np.array([[1, 0], [np.cos(np.pi / 6), np.sin(np.pi / 6)]]))

    since = translation_first_samples(poses)
    assert since.values == pytest.approx(np.array([[0, 0, 0], [-0.5, 0, 1.0]]))  # x to the right, z ahead
    assert translation_samples(poses).values == pytest.approx(np.array([[-0.5, 0, 1.0]]))


def test_translation_to_the_previous_view_is_in_its_axes():
    poses = two_views()
    third = poses[1].copy()
    third[:3, 3] += 2 * poses[1][:3, 2]  # 2 m along the second camera's optical axis
    found = translation_samples(np.stack([*poses, third])).values
    assert found[1] == pytest.approx(np.array([0, 0, 2.0]))


def test_pairs_of_views_are_all_or_evenly_chosen():
    clip = room_clip(frames=6)
    assert len(pose_samples(clip.world_from_camera).view) == 15
    many = pose_samples(room_clip(frames=20, width=32, height=32).world_from_camera)
    assert len(many.view) == 64 and (many.other < many.view).all()
    assert (many.other[0], many.view[0], many.other[-1], many.view[-1]) == (0, 1, 18, 19)

    poses = two_views()
    [row] = pose_samples(poses).values
    assert row[:9].reshape(3, 3) == pytest.approx(Rotation.from_euler("y", 30, degrees=True).as_matrix())
    assert row[9:] == pytest.approx(np.array([-0.5, 0, 1]) / np.sqrt(1.25))

    poses[1][:3, 3] = poses[0][:3, 3] + 0.01
    assert not pose_samples(poses).values[0, 9:].any()  # too near for a direction


def test_pose_errors_by_hand():
    def row(turn: float, direction: tuple[float, float, float]) -> np.ndarray:
        return np.concatenate([Rotation.from_euler("y", turn, degrees=True).as_matrix().ravel(), direction])

    true = np.stack([row(10, (0, 0, 1)), row(10, (0, 0, 1)), row(10, (0, 0, 0))])
    tilted = (0, np.sin(np.radians(20)), -np.cos(np.radians(20)))  # 160 degrees off, 20 up to the sign
    predicted = np.stack([2 * row(14.5, (0, 0, 3)), row(10, tilted), row(50, (1, 0, 0))])

    found = pose_metrics(predicted, true)

    assert found["pose_rotation_error"] == pytest.approx((4.5 + 0 + 40) / 3)
    assert found["pose_direction_error"] == pytest.approx(10.0)
    # limits 5 to 30 take the first pair, 21 to 30 the second (20 is not below 20), none the third
    assert found["pose_auc30"] == pytest.approx((26 + 10) / 30 / 3, abs=0.02)

    mirrored = np.concatenate([np.diag([1, 1, -0.1]).ravel(), (0, 0, 1)])[None]  # next to it lies the identity
    assert pose_metrics(mirrored, row(0, (0, 0, 1))[None])["pose_rotation_error"] == pytest.approx(0, abs=1e-5)
    still = pose_metrics(true[2:], true[2:])
    assert still["pose_auc30"] == 1 and np.isnan(still["pose_direction_error"])


def test_angles_go_round():
    assert turn_metrics(np.array([[179.0]]), np.array([[-179.0]]))["turn_error"] == pytest.approx(2)
    sides = [np.array([[np.cos(angle), np.sin(angle)]]) for angle in np.radians([175.0, -175.0])]
    assert turn_first_metrics(*sides)["turn_first_error"] == pytest.approx(10)
    angles = np.radians([170.0, 179.0, -172.0])
    best = median_direction(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert np.degrees(np.arctan2(best[1], best[0])) == pytest.approx(179, abs=0.1)


def test_points_are_in_the_first_cameras_axes():
    clip = plane_clip(offsets=(0.0, 0.5))  # side by side, the second to the left: a wall 2 m ahead
    values, valid = token_targets(clip, fit_of(clip))
    points = values[..., 4:]
    assert valid.all() and points[..., 2] == pytest.approx(np.full((2, 16), 2.0))
    across = points.reshape(2, 4, 4, 3)[..., 0]
    assert across[0] == pytest.approx(np.tile([-0.75, -0.25, 0.25, 0.75], (4, 1)))
    assert across[1] == pytest.approx(across[0] - 0.5)


def object_clip() -> PosedClip:
    """A wall at 2 m seen from three places, 1 m apart to the left; object 1 is a square of 0.5 m, one token.

    The first view shows it in its leftmost column, the second in its third, the third not at all.
    """
    clip = plane_clip(offsets=(0.0, 1.0, -1.0))
    instances = np.zeros(clip.depth.shape, np.int32)
    instances[0, 16:32, 0:16] = 1  # x from -1 to -0.5 m, y from -0.5 to 0 m
    instances[1, 16:32, 32:48] = 1
    return dataclasses.replace(clip, instances=instances)


def test_an_object_out_of_view_by_hand():
    clip = object_clip()
    labels, shown = token_labels(clip, fit_of(clip))
    assert np.argwhere(labels).tolist() == [[0, 4], [1, 6]]
    assert shown.tolist() == [[True, True], [True, True], [True, False]]
    place = object_places(clip)[1]
    assert place == pytest.approx(np.array([2.0, 0.75, 0.25]))  # world: x ahead, y to the left, z up

    targets = clip_targets(clip, fit_of(clip), ["permanence"])

    samples = targets.samples["permanence"]
    assert targets.sightings.tolist() == [[1, 1]]  # the last view that shows it
    assert (samples.view.tolist(), samples.other.tolist()) == ([2], [0])
    assert samples.values == pytest.approx(np.array([[-1.75, -0.25, 2.0]]))  # from y = -1: 1.75 m to the left


def test_an_object_that_covers_less_than_most_of_a_token_is_shown_but_not_seen():
    clip = object_clip()
    instances = clip.instances.copy()
    instances[2, 0, 0] = 1  # one pixel of the last view
    changed = dataclasses.replace(clip, instances=instances)
    samples = clip_targets(changed, fit_of(clip), ["permanence"]).samples["permanence"]
    assert not len(samples.view)  # it is not out of view either


def test_clips_without_ids_have_no_readings_of_objects():
    clip = room_clip()
    targets = clip_targets(clip, fit_of(clip), list(READINGS))
    assert targets.labels is None and "permanence" not in targets.samples and "turn" in targets.samples
    with pytest.raises(ValueError, match=r"ids of objects must be int\[6, 96, 128\]"):
        dataclasses.replace(clip, instances=np.zeros((6, 2, 2), int))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["moon"],), "There is no reading 'moon'. Choose of depth, normals"),
        (([], "deep"), "There is no probe 'deep'. Choose of linear, attentive"),
        ((["depth"], "attentive"), "The attentive probe cannot read depth, only turn"),
        ((["turn", "turn"],), "name one twice"),
        ((["turn"], "linear", [0, 1]), "have no seeds"),
        ((["turn"], "attentive", [-1]), "numbers from 0"),
        ((["turn"], "attentive", [1, 1]), "name one twice"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        probe_options(*arguments)


def test_options_have_defaults():
    assert probe_options().readings == tuple(READINGS)
    assert "depth" not in probe_options(probe="attentive").readings
    assert probe_options(["turn", "depth"]).readings == ("depth", "turn")
