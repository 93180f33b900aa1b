"""Gate maps over their frames: colours of the clip's own range, whose ends are told, and the picture under them."""

import sys

import numpy as np
import pytest
from PIL import Image

from vega3d.files import PARTIAL
from vega3d.inference.gate_figure import OPACITY, SHORTEST_SCALE, gate_overlays, gate_scale, save_gate_figure

GREY = np.full((3, 40, 60, 3), 128, np.uint8)


def clip(low: float, high: float) -> np.ndarray:
    """float[2, 2, 3] from `low` to `high`."""
    return np.linspace(low, high, 12, dtype=np.float32).reshape(2, 2, 3)


@pytest.mark.parametrize(("low", "high"), [(0.13, 0.28), (0.0, 1.0), (0.7, 0.73)])
def test_colours_span_the_range_of_the_clip(low, high):
    first, last = gate_overlays(GREY, clip(low, high))

    other = gate_overlays(GREY, clip(0.4, 0.5))
    assert gate_scale(clip(low, high)) == pytest.approx((low, high))
    assert np.array_equal(first, other[0]) and np.array_equal(last, other[1])  # the same share of the range
    contrast = np.abs(first[0, 0].astype(int) - last[-1, -1]).max()
    assert contrast > 80  # violet and yellow; on a scale from 0 to 1 it would be one veil


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_a_flat_map_stays_flat(value):
    gates = np.full((2, 2, 3), value, np.float32)
    gates[0, 0, 0] = abs(value - 1e-4)  # rounding

    low, high = gate_scale(gates)
    pictures = gate_overlays(GREY, gates)

    assert high - low == pytest.approx(SHORTEST_SCALE) and 0 <= low <= value <= high + 1e-9 <= 1 + 1e-8
    assert np.ptp(np.stack(pictures).astype(int), axis=(0, 1, 2)).max() < 10


def test_the_picture_shows_through_in_grey():
    frames = np.zeros((1, 40, 60, 3), np.uint8)
    frames[0, :, 30:] = 255

    (picture,) = gate_overlays(frames, np.full((1, 2, 2), 0.5, np.float32))

    step = picture[0, 59].astype(int) - picture[0, 0]
    assert step == pytest.approx(255 * (1 - OPACITY), abs=1)  # in all channels: the hue is the gate's


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gates_that_are_no_numbers_are_refused(value, tmp_path):
    gates = clip(0.1, 0.3)
    gates[1, 1, 1] = value

    with pytest.raises(ValueError, match="no numbers"):
        save_gate_figure(tmp_path / "gates.png", GREY, gates, None)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_figure_has_a_legend_below_the_maps(tmp_path, count):
    frames = np.repeat(GREY[:1], 2 * count, axis=0)
    gates = np.linspace(0.13, 0.28, count * 6, dtype=np.float32).reshape(count, 2, 3)

    save_gate_figure(tmp_path / "gates.png", frames, gates, [float(n) for n in range(2 * count)])

    picture = np.array(Image.open(tmp_path / "gates.png").convert("RGB")).astype(int)
    strip = picture[-90:].max(axis=2) - picture[-90:].min(axis=2)
    assert (strip.max(axis=0) > 60).mean() > 0.5  # the colours, over most of the width
    assert picture.shape[1] > 600


def test_the_users_own_files_beside_it_are_left(tmp_path):
    mine = tmp_path / f"gates.png{PARTIAL}"
    mine.write_text("mine")

    save_gate_figure(tmp_path / "gates.png", GREY, clip(0.1, 0.3), None)

    assert mine.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"gates.png", mine.name}


def test_a_link_is_followed_and_a_folder_refused(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "real" / "gates.png")

    save_gate_figure(link, GREY, clip(0.1, 0.3), None)

    assert link.is_symlink() and (tmp_path / "real" / "gates.png").is_file()
    with pytest.raises(ValueError, match="is a folder"):
        save_gate_figure(tmp_path / "real", GREY, clip(0.1, 0.3), None)


def test_a_program_keeps_its_own_way_to_draw(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)

    save_gate_figure(tmp_path / "gates.png", GREY, clip(0.1, 0.3), None)

    assert "matplotlib.pyplot" not in sys.modules
