"""What a sweep leaves on disk keeps its names: a folder of an earlier version is continued and can be chosen from."""

import json

import numpy as np
import torch
from test_choice import rows

from vega3d.analysis.choice import choose
from vega3d.analysis.clips import PosedClip
from vega3d.analysis.summary import make_result
from vega3d.analysis.sweep import part_key, read_part, write_part
from vega3d.analysis.tokens import content_hash


def test_parts_have_the_names_that_earlier_versions_gave_them():
    correspondence = part_key("correspondence", "content", "identity", [399360, 300, []], [0.1, 0])
    probe = part_key("probe", ["a", "b"], 1, "identity", [399360, 300])

    assert correspondence == "34e999fd7e5273a40c608d556cb2345d"
    assert probe == "b62d54020a925d76a1dcfba0d511c4fb"


def test_clips_have_the_hashes_that_earlier_versions_gave_them():
    intrinsics = np.array([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
    frames = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    depth, poses = np.ones((2, 8, 8), np.float32), np.stack([np.eye(4)] * 2)
    clip = PosedClip("clip", "scene", frames, depth, intrinsics, intrinsics, poses)

    assert content_hash(clip, torch.from_numpy(frames).permute(0, 3, 1, 2)) == "dee32487fcba1f0f519f89a25ceb7f05"


def test_a_part_of_an_earlier_version_is_read(tmp_path):
    row = {
        "family": "wan",
        "mode": "frame",
        "max_area": 9216,
        "timestep": 300,
        "block": 0,
        "clip": "a",
        "cosine": None,
    }
    (tmp_path / "key.json").write_text(json.dumps({"key": "key", "rows": [row]}))

    assert read_part(tmp_path, "key") == [row]
    assert write_part(tmp_path, "key", [{**row, "cosine": float("nan")}]) == [row]


def test_results_have_the_keys_of_earlier_versions():
    found = rows(b0=(0.5, 2)) + rows("random", b0=(0.9, 6))

    result = make_result(found, "sweep", {"model": "tiny"})
    choice = choose(found, "views", {})

    setting = ["family", "mode", "max_area", "timestep", "block"]
    assert list(result) == ["format", "kind", "model", "versions", "bootstrap", "cells", "differences", "clips"]
    assert list(result["cells"][0]) == [*setting, "clips", "scenes", "figures", "figure_scenes"]
    assert list(result["differences"][0]) == [*setting, "minus", "figures", "figure_scenes"]
    assert list(choice) == ["format", "kind", "cells", "own_against", "is_better"]
    assert list(choice["cells"]) == ["own", "random"] and list(choice["cells"]["own"]) == setting
    assert list(choice["own_against"]["random"]["depth_rmse"]) == [
        "first",
        "second",
        "difference",
        "scenes",
        "is_better",
    ]
