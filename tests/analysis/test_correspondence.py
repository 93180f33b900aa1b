"""The correspondence score on geometry and features whose figures are known."""

import dataclasses

import numpy as np
import pytest
import torch
from posed_clips import fit_of, plane_clip, room_clip

from vega3d.analysis.correspondence import co_visible, correspondence, equal_pairs
from vega3d.analysis.tokens import (
    frame_fit,
    read_views,
    token_centres,
    token_of_pixels,
    token_points,
)
from vega3d.processing.generator_frames_vega3d import FrameSettings


def waves(values: np.ndarray, channels: int = 64, scale: float = 3.0) -> torch.Tensor:
    """float[..., channels]: smooth features in which near values are alike and far ones are not."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(values.shape[-1], channels)) * scale
    return torch.from_numpy(np.cos(values @ directions + random.uniform(0, 2 * np.pi, channels))).float()


def test_two_views_of_a_wall_by_hand():
    clip = plane_clip()  # the second camera stands one token further to the left: its column c sees our column c - 1
    seen = co_visible(clip, fit_of(clip))
    assert len(seen.query) == 2 * 4 * 3

    features = torch.eye(16).repeat(2, 1).reshape(2, 4, 4, 16)
    figures = correspondence(features, seen)
    # Tokens are one-hot by their place in the image, so the match is another place: never alike.
    assert figures["cosine"] == 0 and figures["retrieval_1"] == 0 and figures["pck"] == 0

    columns = torch.arange(4)
    wall = torch.zeros(2, 4, 4, 5, 4)
    for view, shift in enumerate((1, 0)):
        wall[view, :, columns, columns + shift] = torch.eye(4)[:, None].expand(4, 4, 4)

    right = correspondence(wall.flatten(3), seen)

    assert right["cosine"] == 1 and right["chance"] == 0 and right["corrected"] == 1
    assert right["retrieval_1"] == 1 and right["pck"] == 1
    assert right["pck_0_15"] == 1 and np.isnan(right["pck_15_30"])


def test_the_mean_of_cosines_by_hand():
    clip = plane_clip()
    seen = co_visible(clip, fit_of(clip))
    features = torch.zeros(2, 4, 4, 2)
    features[0, ..., 0] = 3.0  # length does not matter
    angle = torch.tensor(np.pi / 3)
    features[1] = torch.stack([angle.cos(), angle.sin()])

    figures = correspondence(features, seen)

    assert figures["cosine"] == pytest.approx(0.5) and figures["chance"] == pytest.approx(0.5)
    assert figures["corrected"] == pytest.approx(0, abs=1e-6)
    assert figures["centred_cosine"] == pytest.approx(-1)
    assert figures["retrieval_1"] == 0  # all are alike, and ties count against the match
    assert figures["retrieval_1_chance"] == pytest.approx(1 / 16)


def test_world_coordinates_are_retrieved_and_image_places_are_not():
    clip = room_clip(frames=8)
    fit = fit_of(clip)
    seen = co_visible(clip, fit)
    cell = np.floor(token_points(clip, fit)[0] / 0.1)

    world = correspondence(waves(cell, 256, 1.0).reshape(8, *fit.grid, -1), seen)

    assert world["retrieval_1"] == 1 and world["centred_retrieval_1"] == 1 and world["cosine"] > 1 - 1e-5
    assert world["chance"] < 0.2 and world["pck"] == 1

    place = np.broadcast_to(token_centres(fit) / 64, (8, len(token_centres(fit)), 2))
    image = correspondence(waves(place, 256).reshape(8, *fit.grid, -1), seen)
    assert image["retrieval_1"] < 0.1
    assert image["centred_cosine"] < 0.5


def test_smooth_features_score_high_by_themselves_and_the_correction_shows_it():
    clip = room_clip(frames=8)
    seen = co_visible(clip, fit_of(clip))
    random = torch.Generator().manual_seed(0)
    features = 5 + torch.randn(8, *fit_of(clip).grid, 32, generator=random)
    figures = correspondence(features, seen)
    assert figures["cosine"] > 0.9 and figures["chance"] > 0.9
    assert abs(figures["corrected"]) < 0.1 and abs(figures["centred_cosine"]) < 0.1
    assert figures["retrieval_1"] == pytest.approx(figures["retrieval_1_chance"], abs=0.05)
    assert figures["pck"] == pytest.approx(figures["pck_chance"], abs=0.08)


def test_length_of_tokens_does_not_weigh_them():
    clip = room_clip(frames=5)
    seen = co_visible(clip, fit_of(clip), voxel=1.0)  # several tokens a voxel
    assert len(seen.view) < 0.7 * len(seen.token)
    random = torch.Generator().manual_seed(0)
    features = torch.randn(*seen.shape, 8, generator=random)
    scaled = features * (0.1 + 10 * torch.rand(*seen.shape, 1, generator=random))
    ours, theirs = correspondence(features, seen), correspondence(scaled, seen)
    assert ours["cosine"] == pytest.approx(theirs["cosine"], abs=1e-5) and ours["retrieval_5"] == theirs["retrieval_5"]


def test_every_pair_of_views_counts():
    clip = plane_clip(offsets=(0.0, 0.5, 1.0))
    seen = co_visible(clip, fit_of(clip))
    pairs = {(int(seen.view[a]), int(seen.view[b])) for a, b in zip(seen.query, seen.target, strict=True)}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert len(seen.query) == 2 * 4 * (3 + 3 + 2)


def test_pairs_of_equal_values():
    random = np.random.default_rng(0)
    values = random.integers(0, 6, 30)
    first, second = equal_pairs(values)
    wanted = {(i, j) for i in range(30) for j in range(i + 1, 30) if values[i] == values[j]}
    assert {(min(pair), max(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)} == wanted
    assert len(first) == len(wanted)


def test_chance_never_compares_the_match_itself_and_is_seeded():
    clip = room_clip(frames=5)
    seen, again, other = (co_visible(clip, fit_of(clip), seed=seed) for seed in (0, 0, 1))
    assert (seen.other != seen.target).all()
    assert (seen.view[seen.other] == seen.view[seen.target]).all()
    assert np.array_equal(seen.other, again.other) and not np.array_equal(seen.other, other.other)


def test_true_places_and_angles():
    clip = room_clip(frames=5, turn=80.0)
    seen = co_visible(clip, fit_of(clip))
    steps = np.abs(seen.view[seen.query] - seen.view[seen.target])
    assert np.allclose(seen.angle, 20 * steps, atol=1.5)
    # A voxel's true place in the other view is near the tokens that see it: within a token and a voxel.
    assert np.linalg.norm(seen.truth - seen.place[seen.target], axis=1).max() < 16 * 2


def test_holes_make_tokens_invalid():
    clip = plane_clip()
    depth = clip.depth.copy()
    depth[0, :16, :16] = 0
    depth[0, 0, :16] = 2.0  # 1 of 16 rows: 6 %
    depth[1, :16, :16] = 0
    depth[1, :2, :16] = 2.0  # 2 of 16 rows: 12 %
    _, valid = token_points(dataclasses.replace(clip, depth=depth), fit_of(clip))
    assert not valid[0, 0] and valid[1, 0] and valid[:, 1:].all()


def test_views_without_overlap_and_bad_features_are_refused():
    clip = plane_clip(offsets=(0.0, 50.0))
    with pytest.raises(ValueError, match=r"wall: no two of its 2 views see a common voxel of 0\.1 m"):
        co_visible(clip, fit_of(clip))

    empty = dataclasses.replace(plane_clip(), depth=np.zeros((2, 64, 64), np.float32))
    with pytest.raises(ValueError, match="no two of its 2 views"):
        co_visible(empty, fit_of(empty))

    clip = plane_clip()
    seen = co_visible(clip, fit_of(clip))

    with pytest.raises(ValueError, match=r"Features are \[2, 3, 4, 8\], but the clip's grid is \[2, 4, 4\]"):
        correspondence(torch.ones(2, 3, 4, 8), seen)
    with pytest.raises(ValueError, match="NaN"):
        correspondence(torch.full((2, 4, 4, 8), torch.nan), seen)
    with pytest.raises(ValueError, match="must be above 0"):
        co_visible(clip, fit_of(clip), voxel=0.0)


def test_latents_of_several_frames_are_one_view():
    assert read_views(9, "clip").tolist() == [0, 3, 7]
    assert read_views(7, "clip").tolist() == [0, 3, 6]
    assert read_views(2, "clip").tolist() == [0, 1]
    assert read_views(3, "frame").tolist() == [0, 1, 2]


def test_tokens_of_a_centre_crop():
    clip = plane_clip()
    fit = frame_fit(64, 64, FrameSettings(16, frame_fit="center_crop", frame_size=(32, 64)))
    token = token_of_pixels(clip, fit).reshape(64, 64)
    assert (token[:16] == -1).all() and (token[48:] == -1).all()
    assert token[16, 0] == 0 and token[47, 63] == 7
    assert np.allclose(token_centres(fit)[0], (8, 24))
