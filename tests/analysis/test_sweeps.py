"""Sweeps: one table whatever happens on the way, plans, intervals, pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from posed_clips import SETTINGS, room_clip, write_scannet
from scipy.stats import binomtest

from vega3d.analysis.clips import ReadOptions
from vega3d.analysis.correspondence import co_visible, correspondence
from vega3d.analysis.figures import draw_sweep
from vega3d.analysis.layouts import find_clips, read_clip
from vega3d.analysis.settings import make_grid
from vega3d.analysis.summary import differences, metric_table, notes, read_rows, summarise, sweep_table
from vega3d.analysis.sweep import Measurement, correspondence_rows, run_sweep
from vega3d.analysis.tokens import fit_clip
from vega3d.features.cache import FeatureCache
from vega3d.statistics import mean_intervals

METADATA = {"model": "tiny", "notice": "untrained", "command": "vega3d analyze sweep", "plan": {"families": ["wan"]}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for number in range(3):
        write_scannet(folder / f"scene{number:04d}_00", room_clip(frames=5, turn=40.0 + 10 * number))
    return find_clips(folder)


@pytest.fixture(scope="module")
def generator(assemble):
    return assemble().generator_module


def measurement(generator, changes=(), **options) -> Measurement:
    """All blocks at two noise levels with all controls, but for what `changes` say."""
    grid = {"blocks": [0, 1, 2], "timesteps": [300, 700], "controls": ["random", "noise", "vae"], **dict(changes)}
    return Measurement(generator=generator, grid=make_grid(generator.config, SETTINGS, **grid), **options)


class Counted:
    """Reads as the generator does, and counts."""

    def __init__(self):
        self.passes = 0

    def __call__(self, variant, frames, blocks, timesteps):
        for result in variant.read(frames, blocks, timesteps):
            self.passes += 1
            yield result


def test_rows_are_the_figures_of_the_features(generator, sources):
    reader = Counted()
    run = measurement(generator, {"modes": ["frame", "clip"]}, reader=reader)

    rows = correspondence_rows(run, sources[:1])

    assert reader.passes == run.grid.num_passes(1) == 2 * (2 + 2 + 1 + 1)
    assert len(rows) == 2 * (6 + 6 + 3 + 1)

    clip = read_clip(sources[0])
    for mode, views in (("frame", 5), ("clip", 2)):
        variant = generator.variant(clip_mode=mode, block=2)
        given = fit_clip(clip, SETTINGS, mode)
        (features,) = variant.encode([given.frames])
        wanted = correspondence(features, co_visible(given.clip, given.fit))
        (row,) = (
            row for row in rows if (row["family"], row["mode"], row["timestep"], row["block"]) == ("wan", mode, 300, 2)
        )
        assert row["views"] == views
        assert row["cosine"] == pytest.approx(wanted["cosine"], abs=1e-6)
        assert row["retrieval_1"] == pytest.approx(wanted["retrieval_1"])

    blocks = {row["family"]: (row["block"], row["timestep"]) for row in rows if row["family"] in ("vae", "noise")}
    assert blocks["vae"] == (None, None) and blocks["noise"][1] is None


def test_a_killed_sweep_continues_to_the_same_table(generator, sources, tmp_path):
    modes = {"modes": ["frame", "views"]}
    whole = run_sweep(measurement(generator, modes), sources, [], tmp_path / "whole", METADATA)

    class KilledError(Exception):
        pass

    left = 7

    def kill(count):
        nonlocal left
        left -= count
        if not left:
            raise KilledError

    with pytest.raises(KilledError):
        run_sweep(measurement(generator, modes, on_progress=kill), sources, [], tmp_path / "cut", METADATA)
    assert len(list((tmp_path / "cut" / "parts").iterdir())) == 7
    damaged, swapped, other = sorted((tmp_path / "cut" / "parts").iterdir())[:3]
    damaged.write_text(damaged.read_text()[:-20])
    swapped.write_text(other.read_text())
    reader = Counted()
    run = measurement(generator, modes, reader=reader)
    continued = run_sweep(run, sources, [], tmp_path / "cut", METADATA)
    assert reader.passes == run.grid.num_passes(3) - 5
    assert continued == whole
    assert read_rows(tmp_path / "cut" / "clips.parquet") == read_rows(tmp_path / "whole" / "clips.parquet")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["cells"] == whole["cells"] and "clips" not in summary


def test_other_settings_are_measured_anew(generator, sources, tmp_path):
    def passes(views=32, **changes):
        reader = Counted()
        run = measurement(
            generator, {"controls": [], **changes}, options=ReadOptions(views), parts=tmp_path, reader=reader
        )
        correspondence_rows(run, sources[:1])
        return reader.passes

    assert passes() == 2
    assert passes() == 0
    assert passes(timesteps=[300, 500]) == 1
    assert passes(blocks=[0]) == 2
    assert passes(seed=1) == 2
    assert passes(voxel=0.2) == 2
    assert passes(areas=[64 * 48]) == 2
    assert passes(views=3) == 2


def test_cached_features_give_the_figures_of_bf16(generator, sources, tmp_path):
    plain, cached = (
        measurement(generator, {"controls": [], "timesteps": [300]}, reader=reader)
        for reader in (generator.__class__.read, FeatureCache(tmp_path).read)
    )
    first, second = (correspondence_rows(cached, sources[:1]) for _ in range(2))
    plain = correspondence_rows(plain, sources[:1])
    assert first == second
    assert [row["cosine"] for row in first] == pytest.approx([row["cosine"] for row in plain], abs=0.01)


def test_sizes_change_the_grid(generator, sources):
    run = measurement(generator, {"controls": [], "timesteps": [300], "areas": [64 * 48, 128 * 96]})
    rows = correspondence_rows(run, sources[:1])
    assert {(row["max_area"], row["height"], row["width"]) for row in rows} == {(3072, 48, 64), (12288, 96, 128)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": [3]}, r"no block 3: this generator has 3, so choose in \[-3, 2\]"),
        ({"blocks": [2, -1]}, "name one twice"),
        ({"timesteps": [1000]}, "timestep=1000"),
        ({"modes": ["video"]}, "no mode 'video'. Choose of frame, views, clip"),
        ({"controls": ["wan"]}, "no control 'wan'. Choose of random, noise, vae"),
    ],
)
def test_bad_plans_are_refused(generator, changes, message):
    with pytest.raises(ValueError, match=message):
        measurement(generator, changes)


def test_a_folder_of_something_else_is_refused(generator, sources, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no sweep"):
        run_sweep(measurement(generator), sources, [], tmp_path, METADATA)


def test_intervals_are_over_scenes():
    values = np.array([[1.0, np.nan, 1.0], [1.0, np.nan, np.nan], [0.0, np.nan, np.nan], [np.nan, np.nan, np.nan]])
    first, second, third = mean_intervals(["a", "a", "b", "c"], values)
    assert first.score == pytest.approx(2 / 3)
    assert (first.low, first.high) == (0, 1)  # some draws have scene a alone, some b alone
    assert second.score is None
    assert (third.score, third.low) == (1, None)  # one scene
    random = np.random.default_rng(0)
    values = random.normal(size=(200, 1))
    (interval,) = mean_intervals([str(number) for number in range(200)], values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_shares_that_are_all_0_or_all_1_have_the_exact_interval_of_their_scenes(value):
    cell = {"family": "wan", "mode": "frame", "max_area": 1, "timestep": 1, "block": 1}
    rows = [
        {**cell, "clip": f"{n}", "scene": f"s{n // 2}", "retrieval_1": value, "cosine": value, "pck_0_15": None}
        for n in range(8)
    ]
    rows[0]["pck_0_15"] = value  # of one scene alone

    [summary] = summarise(rows)

    exact = binomtest(int(4 * value), 4).proportion_ci(0.95, "exact")
    assert summary["figures"]["retrieval_1"] == pytest.approx({"score": value, "low": exact.low, "high": exact.high})
    assert summary["figures"]["cosine"] == {"score": value, "low": None, "high": None}  # it has no limit there
    assert summary["figures"]["pck_0_15"] == {"score": value, "low": None, "high": None}
    assert summary["figure_scenes"] == {"retrieval_1": 4, "cosine": 4, "pck_0_15": 1}


def test_tables_tell_the_scenes_of_each_row():
    cells = cells_by_hand()
    cells[0]["figure_scenes"]["chance"] = 12

    lines = metric_table(cells, {"cosine": "cosine", "chance": "chance"})

    assert lines[0].split()[-1] == "scenes"
    assert [line.split()[-1] for line in lines[1:3]] == ["2-12", "2"]
    assert notes({"cells": cells, "clips": []}) == ["note: intervals from 2 scenes are too narrow; give 10 or more"]


def test_differences_are_paired():
    rows = []
    for family, block, timestep, more in (("wan", 3, 300, 0.1), ("random", 3, 300, 0.0), ("vae", None, None, 0.2)):
        cell = {"family": family, "mode": "frame", "max_area": 1, "timestep": timestep, "block": block}
        for number in range(6):  # clips differ far more than families
            rows.append({**cell, "clip": f"c{number}", "scene": f"s{number}", "corrected": number + more})
    rows.append({**rows[6], "block": 4})
    random, vae = differences(rows)
    assert (random["minus"], vae["minus"]) == ("random", "vae")
    assert random["figures"]["corrected"] == pytest.approx({"score": 0.1, "low": 0.1, "high": 0.1})
    assert vae["figures"]["corrected"] == pytest.approx({"score": -0.1, "low": -0.1, "high": -0.1})


def test_clips_of_one_scene_are_drawn_together():
    cell = {"family": "wan", "mode": "frame", "max_area": 1, "timestep": 1, "block": 1}
    clips = [(f"{scene}{score}", scene, score) for scene in "abcdef" for score in (1.0, 0.0)]
    rows = [{**cell, "clip": clip, "scene": scene, "cosine": score} for clip, scene, score in clips]
    (summary,) = summarise(rows)
    assert (summary["clips"], summary["scenes"], summary["figure_scenes"]) == (12, 6, {"cosine": 6})
    assert summary["figures"]["cosine"] == {"score": 0.5, "low": 0.5, "high": 0.5}  # all scenes have the same mean


def cells_by_hand() -> list[dict]:
    rows = []
    for family, blocks, timesteps in (
        ("wan", range(4), (100, 500)),
        ("random", range(4), (100,)),
        ("vae", [None], [None]),
    ):
        for block in blocks:
            for timestep in timesteps:
                for scene in ("a", "b"):
                    cell = {"family": family, "mode": "frame", "max_area": 9216, "timestep": timestep, "block": block}
                    score = 0.1 * (block or 0) + (0.05 if scene == "a" else 0)
                    rows.append({**cell, "clip": scene, "scene": scene, "left_out": 0, "cosine": score, "chance": 0.1})
    return summarise(rows)


def test_pictures_are_drawn(tmp_path):
    files = draw_sweep(tmp_path, cells_by_hand())
    assert [file.name for file in files] == ["heatmap_cosine.png", "curves_cosine.png"]
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_the_table_names_the_best_settings():
    result = {**METADATA, "cells": cells_by_hand(), "clips": []}
    table = sweep_table(result, Path("out"))
    assert table.index("wan, frame, block 3, step 100") < table.index("wan, frame, block 2, step")
    assert "random, frame, block 3, step 100" in table and "note: untrained" in table
    assert "0.325 [0.300, 0.350]" in table
