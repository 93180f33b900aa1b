"""The setting that a sweep chooses, and the acceptance criterion."""

import json

import pytest
from typer.testing import CliRunner

from vega3d.analysis.choice import best_setting, choice_table, choose, compare_settings
from vega3d.analysis.summary import write_rows
from vega3d_cli import app

CLIPS = 12


def rows(family="wan", mode="views", shift=0.0, **settings):
    """A row for each clip and setting; `b1=(depth, turn)` is block 1, and clips differ."""
    return [
        {
            "family": family,
            "mode": mode,
            "max_area": 100,
            "timestep": 300,
            "block": int(name[1:]),
            "clip": f"clip{clip}",
            "scene": f"scene{clip}",
            "height": 6,
            "width": 6,
            "views": 5,
            "left_out": 0,
            "depth_rmse": depth + shift + 0.01 * clip,
            "turn_error": turn + 0.1 * clip,
        }
        for name, (depth, turn) in settings.items()
        for clip in range(CLIPS)
    ]


def test_the_best_setting_is_best_over_both_measures():
    found = rows(b0=(0.5, 1), b1=(0.6, 2), b2=(0.9, 5), b3=(0.95, 8))
    assert best_setting(found, "wan")[-1] == 0
    assert best_setting(rows(b0=(0.5, 7), b1=(0.6, 1), b2=(0.7, 2)), "wan")[-1] == 1  # ranks 0 + 2, 1 + 0, 2 + 1
    assert best_setting(rows(b0=(0.5, 7), b1=(0.6, 6)), "wan")[-1] == 0  # of equals the better depth


def test_only_settings_of_family_and_mode_with_both_measures_are_chosen():
    found = rows(b0=(0.9, 9)) + rows("random", b1=(0.1, 1)) + rows(mode="frame", b2=(0.1, 1))
    bare = [{**row, "depth_rmse": None} for row in rows(b3=(0.1, 1))]
    assert best_setting(found + bare, "wan", "views")[-1] == 0
    with pytest.raises(ValueError, match="no setting of vae"):
        best_setting(found, "vae")


def test_differences_are_paired_and_have_a_side():
    first, second = rows(b0=(0.5, 2)), rows(b0=(0.7, 4))
    setting = best_setting(first, "wan")
    found = compare_settings(first, setting, second, setting)
    depth = found["depth_rmse"]

    assert depth["difference"]["score"] == pytest.approx(-0.2) and depth["is_better"]
    assert depth["difference"]["high"] - depth["difference"]["low"] < 1e-9  # what clips share cancels
    assert found["turn_error"]["is_better"]

    worse = compare_settings(second, setting, first, setting)
    assert not worse["depth_rmse"]["is_better"] and not worse["turn_error"]["is_better"]

    same = compare_settings(first, setting, first, setting)
    assert not same["depth_rmse"]["is_better"]
    with pytest.raises(ValueError, match="same"):
        compare_settings(first, setting, second[:-1], setting)


def test_the_choice_names_the_best_of_each_and_passes_only_if_all_are_beaten():
    own = rows(b0=(0.6, 3), b1=(0.5, 2)) + rows("random", b0=(0.9, 6), b1=(0.8, 5))
    baseline = [{**row, "turn_error": None} for row in rows("mean", b0=(2.0, 10))]
    twin = rows(mode="frame", b0=(0.55, 2.5))
    choice = choose(own + baseline, "views", {"twin": twin})
    assert {name: cell["block"] for name, cell in choice["cells"].items()} == {"own": 1, "random": 1, "twin": 0}
    assert choice["is_better"]
    better_twin = rows(mode="frame", b0=(0.55, 1.5))
    assert not choose(own, "views", {"twin": better_twin})["is_better"]


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no controls to compare with\. Sweep with --controls\. .* --against"):
        choose(rows(b0=(0.5, 2)), "views", {})
    own = rows(b0=(0.5, 2)) + rows("random", b0=(0.9, 6))
    with pytest.raises(ValueError, match="--against names random"):
        choose(own, "views", {"random": own})
    (tmp_path / "sweep").mkdir()
    write_rows(tmp_path / "sweep" / "clips.parquet", own)
    bad = CliRunner().invoke(app, ["analyze", "choose", str(tmp_path / "sweep"), "--against", "twin"])
    assert bad.exit_code == 2 and "must be NAME=SWEEP" in bad.output


def without(found: list[dict], *names: str) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in names} for row in found]


def without_probes(found: list[dict]) -> list[dict]:
    return without(found, "depth_rmse", "turn_error")


def test_what_a_sweep_lacks_is_named():
    own, control = rows(b0=(0.5, 2)), rows("random", b0=(0.9, 6))
    baseline = [{**row, "turn_error": None} for row in rows("mean", b0=(2.0, 10))]

    for found, others, message in (
        (without_probes(own + control), {}, r"The sweep has no probes\. Sweep with --probes --readings depth,turn\.$"),
        (without(own + control, "turn_error"), {}, r"no turn_error\. Sweep with --probes --readings depth,turn\.$"),
        (without(own + control, "depth_rmse"), {}, r"no depth_rmse\. Sweep with --probes --readings depth,turn\.$"),
        (without_probes(own), {}, r"no probes and no controls to compare with\. Sweep with --probes .* --controls\."),
        (own + baseline, {}, r"no controls to compare with\. Sweep with --controls\."),
        (own + without_probes(control), {}, r"no probes of depth and turn of its controls \(random\)"),
        (without_probes(own), {"twin": own}, r"The sweep has no probes\. Sweep with --probes"),
        (own, {"twin": without_probes(own)}, r"twin has no setting of wan"),
        ([], {}, r"no clips in the sweep"),
        (own, {"twin": []}, r"no clips in twin"),
    ):
        with pytest.raises(ValueError, match=message):
            choose(found, "views", others)


@pytest.mark.parametrize("scenes", [1, 2, 5, 12])
def test_a_choice_knows_its_scenes(scenes):
    first, second = (
        [{**row, "scene": f"s{int(row['clip'][4:]) % scenes}"} for row in found]
        for found in (rows(b0=(0.5, 2)), rows("random", b0=(0.9, 6)))
    )

    result = choose(first + second, "views", {})

    found = result["own_against"]["random"]
    assert {figure["scenes"] for figure in found.values()} == {scenes}
    assert result["is_better"] == (scenes >= 6)  # every clip gains as much, which five scenes do not prove
    lines = choice_table(result).splitlines()
    assert lines[0].split()[-1] == "scenes" and lines[1].split()[-1] == str(scenes)
    assert any("note: " in line for line in lines) == (scenes < 10)


def test_choose_prints_a_table_and_writes_json(tmp_path):
    for name, found in (("sweep", rows(b0=(0.5, 2)) + rows("random", b1=(0.8, 5))), ("twin", rows(b2=(0.6, 3)))):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "clips.parquet", found)
    call = ["analyze", "choose", str(tmp_path / "sweep"), "--against", f"image-twin={tmp_path / 'twin'}"]

    shown = CliRunner().invoke(app, [*call, "--output", str(tmp_path / "choice.json")])

    assert shown.exit_code == 0, shown.output
    assert "wan, views, block 0, step 300" in shown.output and "own - image-twin" in shown.output
    assert "better than all others" in shown.output
    assert json.loads((tmp_path / "choice.json").read_text())["cells"]["image-twin"]["block"] == 2

    bad = CliRunner().invoke(app, ["analyze", "choose", str(tmp_path)])
    assert bad.exit_code == 2 and "clips.parquet is not there" in bad.output
