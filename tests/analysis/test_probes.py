"""Linear probes: exact where depth and normals are linear in the features, nothing learnt where they are not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from posed_clips import SETTINGS, fit_of, plane_clip, room_clip, write_scannet

from vega3d.analysis import sweep
from vega3d.analysis.layouts import find_clips, read_clip
from vega3d.analysis.probes import Moments, Ridge, fit_probe, position_features, predict
from vega3d.analysis.readings import (
    READINGS,
    depth_metrics,
    normal_metrics,
    pixel_normals,
    probe_options,
    token_targets,
)
from vega3d.analysis.settings import make_grid
from vega3d.analysis.sweep import Measurement, check_scenes, probe_rows


def moments_of(features: torch.Tensor, targets: torch.Tensor) -> Moments:
    moments = Moments(features.shape[1], targets=targets.shape[1])
    for part in range(0, len(features), 100):
        moments.add(features[part : part + 100], targets[part : part + 100])
    return moments


def test_normals_of_a_wall_and_of_a_room():
    normals, known = pixel_normals(plane_clip())
    assert known.reshape(2, 64, 64)[:, 1:-1, 1:-1].all() and not known.reshape(2, 64, 64)[:, 0].any()
    assert np.allclose(normals[known], (0, 0, -1), atol=1e-5)  # towards the camera
    clip = room_clip()
    normals, known = pixel_normals(clip)
    world = np.einsum("tij,tpj->tpi", clip.world_from_camera[:, :3, :3], normals)
    flat = np.sort(np.abs(world[known]), axis=-1)[:, ::-1]
    assert known.mean() > 0.9 and np.median(np.abs(flat - (1, 0, 0)).max(axis=-1)) < 1e-3


def test_normals_stop_at_holes_and_edges():
    clip = plane_clip()
    depth = clip.depth.copy()
    depth[:, :, 32:] = 3.0
    depth[:, 10, 10] = 0
    _, known = pixel_normals(dataclasses.replace(clip, depth=depth))
    known = known.reshape(2, 64, 64)
    assert not known[:, :, 31:33].any() and known[:, 20, 30].all() and known[:, 20, 33].all()
    assert not known[:, 10, 9:12].any() and not known[:, 9:12, 10].any()


def test_targets_are_means_over_tokens():
    clip = room_clip(width=128, height=96)
    values, valid = token_targets(clip, fit_of(clip))
    means = clip.depth.reshape(6, 6, 16, 8, 16).mean(axis=(2, 4)).reshape(6, 48)
    assert np.allclose(values[..., 0], means, atol=1e-4)
    assert np.allclose(np.linalg.norm(values[valid][:, 1:4], axis=-1), 1)


def test_ridge_is_the_closed_form():
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(350, 7)) * [1, 5, 0.1, 1, 2, 3, 1] + 3, random.normal(size=(350, 4))
    weight = Ridge(moments_of(torch.from_numpy(features), torch.from_numpy(targets))).weight(0.1).numpy()
    scaled = (features - features.mean(0)) / features.std(0)
    solved = np.linalg.solve(scaled.T @ scaled / 350 + 0.1 * np.eye(7), scaled.T @ (targets - targets.mean(0)) / 350)
    assert np.allclose(features @ weight[:-1] + weight[-1], scaled @ solved + targets.mean(0))


def test_squared_error_of_moments_is_that_of_tokens():
    random = torch.Generator().manual_seed(0)
    features, targets, weight = (torch.randn(*shape, generator=random) for shape in ((200, 5), (200, 4), (6, 4)))
    error = moments_of(features, targets).squared_error(weight.double())
    predicted = torch.from_numpy(predict(features, weight.double()))
    assert torch.allclose(error, (predicted - targets).square().sum(0), rtol=1e-4)


def test_strength_is_chosen_on_the_part_held_out():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(120, 60, generator=random)
    targets = torch.cat([features[:, :1] + 2, torch.randn(120, 3, generator=random)], dim=1)
    parts = {name: READINGS[name].columns for name in ("depth", "normals")}
    weight, chosen = fit_probe(moments_of(features[:80], targets[:80]), moments_of(features[80:], targets[80:]), parts)
    assert chosen["depth"] == 1e-6 and chosen["normals"] >= 1  # exact for the one, nothing to learn for the other
    assert np.allclose(predict(features, weight)[:, 0], targets[:, 0], atol=1e-3)
    assert np.abs(weight[:-1, 1:].numpy()).max() < 0.1


def test_figures_by_hand():
    true = np.array([[2.0, 0, 0, -1], [4.0, 0, -1, 0]])
    predicted = np.array([[2.4, 0, 0, -3], [3.0, 0, -1, -1]])
    figures = depth_metrics(predicted[:, :1], true[:, :1]) | normal_metrics(predicted[:, 1:], true[:, 1:])
    assert figures["depth_rmse"] == pytest.approx(np.sqrt((0.16 + 1) / 2))
    assert figures["depth_abs_rel"] == pytest.approx((0.2 + 0.25) / 2)
    assert figures["depth_delta1"] == 0.5
    assert figures["normal_mean"] == pytest.approx(22.5) and figures["normal_median"] == pytest.approx(22.5)
    assert (figures["normal_11"], figures["normal_22"], figures["normal_30"]) == (0.5, 0.5, 0.5)
    assert depth_metrics(np.array([[-5.0]]), true[:1, :1])["depth_delta1"] == 0
    assert normal_metrics(np.zeros((1, 3)), true[:1, 1:])["normal_mean"] == pytest.approx(90)


def test_position_features_know_the_place_only():
    fit = fit_of(room_clip())
    features = position_features(fit)
    assert features.shape == (48, 63)
    assert torch.linalg.matrix_rank(features) == 47  # any function of the place, up to a constant


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(5):
        clip = room_clip(frames=3, turn=30.0 + 5 * number, name=f"scene{number}")
        write_scannet(folder / f"scene{number:04d}_00", clip)
    return folder


def test_probes_of_a_model_beside_baselines_and_a_second_run(assemble, scans, tmp_path):
    generator = assemble().generator_module
    sources = find_clips(scans)
    grid = make_grid(generator.config, SETTINGS, blocks=[0, 2], controls=["vae"])
    run = Measurement(generator=generator, grid=grid, parts=tmp_path)
    rows = probe_rows(run, sources[:3], sources[3:])
    settings = {(row["family"], row["block"]) for row in rows}
    assert settings == {("wan", 0), ("wan", 2), ("vae", None), ("mean", None), ("position", None)}
    assert {row["clip"] for row in rows} == {"scene0003_00", "scene0004_00"}
    rmse = {row["family"]: row["depth_rmse"] for row in rows if row["clip"] == "scene0003_00"}
    assert rmse["position"] < rmse["mean"]  # the camera tilts down in every clip
    turns = {row["family"]: row["turn_error"] for row in rows if row["clip"] == "scene0003_00"}
    assert turns["mean"] == pytest.approx(45 / 2 - 35 / 2, abs=0.15)  # a view; all tilt a little
    assert all("instances_auc" not in row and "permanence_error" not in row for row in rows)  # no ids of objects
    truth, _ = token_targets(room_clip(frames=3, turn=45.0), fit_of(room_clip()))
    assert rmse["mean"] >= 0.9 * truth[..., 0].std()
    passes: list[int] = []

    def counted(variant, frames, blocks, timesteps):
        passes.append(1)
        return variant.read(frames, blocks, timesteps)

    again = Measurement(generator=generator, grid=grid, parts=tmp_path, reader=counted)
    assert probe_rows(again, sources[:3], sources[3:]) == rows
    assert not passes
    probe_rows(again, sources[:2], sources[3:])
    assert passes  # other training clips: another probe
    passes.clear()
    other = dataclasses.replace(again, probes=probe_options(["turn"]))
    assert {name for row in probe_rows(other, sources[:3], sources[3:]) for name in row} >= {"turn_error"}
    assert passes  # other readings: another probe


@pytest.mark.parametrize("size, reads", [(1 << 30, 5), (0, 5 * 4)])
def test_clips_are_read_once_if_they_can_be_stored(assemble, scans, monkeypatch, size, reads):
    generator = assemble().generator_module
    sources = find_clips(scans)
    grid = make_grid(generator.config, SETTINGS, blocks=[0], timesteps=[300, 700], controls=["vae"])
    rows = probe_rows(Measurement(generator=generator, grid=grid), sources[:3], sources[3:])
    seen = []

    def read(source, options):
        seen.append(source)
        return read_clip(source, options)

    monkeypatch.setattr(sweep, "read_clip", read)
    run = Measurement(generator=generator, grid=grid, stored_bytes=size)
    assert probe_rows(run, sources[:3], sources[3:]) == rows
    assert len(seen) == reads  # three levels and the baselines read each clip


def test_scenes_are_not_shared(scans):
    sources = find_clips(scans)
    with pytest.raises(ValueError, match="1 scenes are both trained and tested on, the first is scene0001"):
        check_scenes(sources[:2], sources[1:])
    with pytest.raises(ValueError, match="Got 1 training scenes and 1 test clips"):
        check_scenes(sources[:1], sources[1:2])
