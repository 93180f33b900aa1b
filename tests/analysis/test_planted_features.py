"""Probes of features in which everything is planted, or nothing: errors near zero, or those of the best constant."""

import dataclasses

import numpy as np
import pytest
import torch
from posed_clips import ROOM, fit_of, room_depth

from vega3d.analysis import attentive
from vega3d.analysis.clips import PosedClip
from vega3d.analysis.probes import SHRINKAGE, ProbeTraining, Scatter, grouping_metrics, principal_axes, roc_auc
from vega3d.analysis.readings import ProbeOptions, Targets, clip_targets, probe_options
from vega3d.geometry import intrinsics_from_field_of_view, look_at

TRAIN, TEST, VIEWS = 20, 5, 8
CPU = torch.device("cpu")
ALL = probe_options()


def walk(seed: int, turning: float = 25.0) -> PosedClip:
    """A camera in an empty room that turns by up to `turning` degrees a view; strips of 1 m are objects."""
    random = np.random.default_rng(seed)
    angles = np.radians(np.cumsum(random.uniform(-turning, turning, VIEWS)))
    places = [1.2, 1.0, 1.2] + random.uniform(0, 1, (VIEWS, 3)) * [2.5, 2.0, 0.4]
    ahead = np.stack([np.cos(angles), np.sin(angles), np.zeros(VIEWS)], axis=1)
    poses = np.stack([look_at(place, place + step) for place, step in zip(places, ahead, strict=True)])
    intrinsics = intrinsics_from_field_of_view(64, 48, 60.0)
    depth = np.stack([room_depth(pose, intrinsics, 64, 48) for pose in poses])
    name = f"walk{seed:02d}"
    clip = PosedClip(name, name, np.zeros((VIEWS, 48, 64, 3), np.uint8), depth, intrinsics, intrinsics, poses)
    rows, columns = np.mgrid[:48, :64]
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones((48, 64))], axis=-1)
    rays = np.einsum("tij,hwj->thwi", poses[:, :3, :3] @ np.linalg.inv(intrinsics), pixels)
    points = poses[:, None, None, :3, 3] + depth[..., None] * rays
    strips = 1 + np.clip(np.floor(points[..., 1]), 0, ROOM[1] - 1)
    return dataclasses.replace(clip, instances=strips.astype(np.int32))


def planted(clip: PosedClip, targets: Targets) -> np.ndarray:
    """float[T, 3, 4, 24]: in each token the camera's pose and step, and its own depth, normal, point and object."""
    targets = clip_targets(clip, fit_of(clip), ALL.readings)
    yaw = np.unwrap(np.arctan2(*targets.samples["turn_first"].values.T[::-1]))
    steps = np.concatenate([np.zeros((1, 3)), targets.samples["translation"].values])
    views = [yaw, np.cos(yaw), np.sin(yaw), *targets.samples["translation_first"].values.T, *steps.T]
    views += [*clip.world_from_camera[:, :3, 3].T]
    tokens = np.concatenate([targets.values, np.eye(5)[targets.labels]], axis=-1)
    both = np.concatenate([np.repeat(np.stack(views, axis=1)[:, None], 12, axis=1), tokens], axis=-1)
    return both.reshape(VIEWS, 3, 4, -1)


def noise(seed: int, channels: int = 23) -> np.ndarray:
    return np.random.default_rng(100 + seed).normal(size=(VIEWS, 3, 4, channels))


def scores(features, options: ProbeOptions = ALL, is_mean: bool = False, **changes) -> dict[str, float]:
    """Means over test clips of the metrics of probes of `features(seed, clip, targets)`."""
    training = ProbeTraining(options, is_mean)
    read = []
    for seed in range(TRAIN + TEST):
        clip = walk(seed, **changes)
        targets = clip_targets(clip, fit_of(clip), options.readings)
        read.append((torch.from_numpy(features(seed, clip, targets)).float(), targets))
    for seed in range(TRAIN):
        training.add(*read[seed], is_held_out=seed % 5 == 0)
    fitted = training.fit(CPU)
    found = [fitted.metrics(*clip) for clip in read[TRAIN:]]
    names = {name for metrics in found for name in metrics}
    return {name: float(np.nanmean([metrics.get(name, np.nan) for metrics in found])) for name in names}


@pytest.fixture(scope="module")
def constant() -> dict[str, float]:
    return scores(lambda seed, clip, targets: np.zeros((VIEWS, 3, 4, 1)), is_mean=True)


def test_what_is_planted_is_read(constant):
    found = scores(lambda seed, clip, targets: planted(clip, targets) + 20 + 1e-4 * noise(seed, 24))

    for name in ("turn_error", "turn_first_error", "translation_error", "translation_first_error", "points_error"):
        assert found[name] < 0.1 * constant[name], name
    assert found["depth_rmse"] < 0.02 * constant["depth_rmse"]
    assert found["instances_auc"] > 0.99 and found["instances_auc_across"] > 0.99
    assert found["pose_auc30"] > constant["pose_auc30"]  # not linear in two poses, but more than nothing
    assert found["permanence_error"] < 0.8 * constant["permanence_error"]  # likewise


def test_without_turns_the_place_of_an_object_is_linear():
    def features(seed, clip, targets):
        world = np.repeat(clip.world_from_camera[:, None, :3, 3], 12, axis=1)
        places = np.stack([clip_place(clip, item) for item in range(5)])[targets.labels]
        return np.concatenate([world, places], axis=-1).reshape(VIEWS, 3, 4, 6)

    def clip_place(clip, item):
        from vega3d.analysis.readings import object_places

        places = object_places(clip)
        return np.nan_to_num(places[item]) if item < len(places) else np.zeros(3)

    options = probe_options(["permanence"])
    found = scores(features, options, turning=0.0)
    assert found["permanence_error"] < 0.01


def test_noise_has_the_errors_of_the_constant(constant):
    found = scores(lambda seed, clip, targets: noise(seed))

    for name in ("turn_error", "turn_first_error", "translation_error", "translation_first_error", "permanence_error"):
        assert 0.9 * constant[name] < found[name] < 1.4 * constant[name], name
    assert found["instances_auc_across"] == pytest.approx(0.5, abs=0.03)
    assert constant["instances_auc_across"] == constant["instances_auc"] == 0.5  # all pairs are ties


def test_views_in_another_order_say_nothing_of_motion(constant):
    def shuffled(seed, clip, targets):
        return planted(clip, targets)[np.random.default_rng(seed).permutation(VIEWS)]

    found = scores(shuffled, probe_options(["turn", "translation_first"]))

    assert found["turn_error"] > 0.85 * constant["turn_error"]
    assert found["translation_first_error"] > 0.85 * constant["translation_first_error"]


def test_the_constant_is_the_median(constant):
    turns, tested = [], []
    for seed in range(TRAIN + TEST):
        poses = walk(seed).world_from_camera
        headings = np.unwrap(np.arctan2(poses[:, 1, 2], poses[:, 0, 2]))
        (turns if seed < TRAIN else tested).append(-np.degrees(np.diff(headings)))
    expected = np.mean([np.abs(turn - np.median(np.concatenate(turns))).mean() for turn in tested])
    assert constant["turn_error"] == pytest.approx(expected)


def test_attentive_probes_have_seeds(constant, monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 50)
    options = probe_options(["turn", "permanence"], "attentive", [0, 1])

    found, again = (scores(lambda seed, clip, targets: planted(clip, targets), options) for _ in range(2))

    assert found == again  # a seed decides everything
    assert found["turn_error_seed_0"] != found["turn_error_seed_1"]
    assert found["turn_error"] == pytest.approx((found["turn_error_seed_0"] + found["turn_error_seed_1"]) / 2)
    assert found["permanence_error"] < constant["permanence_error"]
    assert "depth_rmse" not in found


def test_attentive_probes_learn_what_is_planted_in_pairs(monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 250)
    random = torch.Generator().manual_seed(0)
    yaw = torch.randn(601, generator=random)
    tokens = torch.randn(601, 4, 8, generator=random)
    tokens[:, :, 0] += 4 * yaw[:, None]
    view, values = torch.arange(1, 601), 20 * (yaw[1:] - yaw[:-1])[:, None].double().numpy()
    held_out = np.arange(600) % 5 == 0
    inputs = attentive.Inputs(tokens, view, tokens, view - 1)

    probe = attentive.train_attentive(inputs, np.where(held_out[:, None], 0, values), held_out, 0, CPU)
    assert np.abs(probe(inputs) - values)[held_out].mean() > 10  # stopped by samples that say something else

    probe = attentive.train_attentive(inputs, values, held_out, 0, CPU)
    assert np.abs(probe(inputs) - values)[held_out].mean() < 6  # the best constant has 22


def test_clips_held_out_have_no_say_in_the_axes():
    clip, options = walk(0), probe_options(["turn"])
    targets = clip_targets(clip, fit_of(clip), options.readings)
    found = []
    for held_out in (1, 2):
        training = ProbeTraining(options)
        training.add(torch.from_numpy(noise(0)), targets, is_held_out=False)
        training.add(torch.from_numpy(noise(held_out)), targets, is_held_out=True)
        found.append(training.fit(CPU).projection)
    assert torch.equal(found[0].axes, found[1].axes)


def test_clips_without_objects_leave_out_their_readings():
    training = ProbeTraining(ALL)
    empty = dataclasses.replace(walk(9), instances=np.zeros((VIEWS, 48, 64), np.int32))
    for seed, clip in enumerate([*map(walk, range(4)), empty]):
        targets = clip_targets(clip, fit_of(clip), ALL.readings)
        training.add(torch.from_numpy(noise(seed)), targets, is_held_out=seed % 2 == 0)
    fitted = training.fit(CPU)
    for clip in (empty, dataclasses.replace(empty, instances=None)):
        found = fitted.metrics(torch.from_numpy(noise(5)), clip_targets(clip, fit_of(clip), ALL.readings))
        assert "turn_error" in found and "permanence_error" not in found
        assert np.isnan(found.get("instances_auc", np.nan))


def test_auc_counts_ties_half():
    assert roc_auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])) == pytest.approx(3.5 / 4)
    assert np.isnan(roc_auc(np.array([0.5]), np.array([True])))


def test_whitening_undoes_how_tokens_differ_within_objects():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    spread = torch.tensor([3.0, 1.0, 0.2, 1.0])
    clips = [5 + torch.randn(300, 4, generator=random) * spread + 4 * labels[:, None] for _ in range(2)]
    scatter = Scatter(4, CPU)
    for tokens in clips:
        scatter.add(tokens, labels)

    mean, whitened = scatter.whitening()

    assert torch.allclose(mean, torch.cat(clips).double().mean(0))
    within = torch.cat(
        [tokens[labels == item] - tokens[labels == item].mean(0) for tokens in clips for item in range(3)]
    )
    covariance = within.double().T @ within.double() / 600
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.diagonal().mean() * torch.eye(4)
    assert torch.allclose(whitened.T @ shrunk @ whitened, torch.eye(4, dtype=torch.float64), atol=1e-5)


def test_pairs_of_tokens_within_and_across_views_by_hand():
    tokens = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [1, 0.2], [0.1, 1]])
    labels, views = torch.tensor([1, 1, 2, 1, 2]), torch.tensor([0, 0, 0, 1, 1])
    found = grouping_metrics(tokens, labels, views)
    assert found == {"instances_auc": 1.0, "instances_auc_across": 1.0}
    swapped = grouping_metrics(tokens, torch.tensor([1, 1, 2, 2, 1]), views)
    assert swapped["instances_auc_across"] == 0


@pytest.mark.parametrize("views", [16, 60])
def test_axes_keep_all_that_differs(views):
    random = torch.Generator().manual_seed(0)
    flat = torch.randn(views, 4, generator=random) @ torch.randn(4, 18, generator=random)
    clips = flat.reshape(views, 9, 2).split(5)
    projection = principal_axes(clips)
    found = torch.cat([projection(clip) for clip in clips])
    assert found.shape == (views, 4)
    assert torch.allclose(torch.pdist(found), torch.pdist(flat.double()), atol=1e-4)
