"""OpenGL shows what embree shows; needs EGL, by a graphics card or by Mesa's software."""

import sys

import numpy as np
import pytest

pytest.importorskip("embreex")
pytest.importorskip("moderngl", reason="rendering with OpenGL needs moderngl")

from vega3d.extras import MissingExtraError
from vega3d.rooms import load_furniture, sample_scene, scene_seed
from vega3d.rooms.render.cards import egl_cards, visible_cards
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.opengl import OpenGLContext, OpenGLRenderer, draw_arrays
from vega3d.rooms.scene.trajectory import sample_trajectories

SIZE = 128


@pytest.fixture(scope="module")
def context():
    try:
        context = OpenGLContext()
    except ValueError as error:
        pytest.skip(f"no OpenGL here: {error}")
    yield context
    context.release()


@pytest.fixture(scope="module")
def scenes():
    furniture = load_furniture()
    scenes = [sample_scene(scene_seed("validation", number), furniture) for number in range(2)]
    numbered = (sample_scene(scene_seed("validation", number), furniture) for number in range(2, 60))
    scenes.append(next(scene for scene in numbered if scene.room.notch is not None))
    return scenes


@pytest.fixture(scope="module")
def embree(scenes):
    return [EmbreeRenderer(scene, "fast") for scene in scenes]


@pytest.fixture(scope="module")
def pairs(scenes, embree, context):
    """Clips of the same trajectories by both renderers, all rooms through one context."""
    pairs = []
    for scene, expected in zip(scenes, embree, strict=True):
        trajectories = sample_trajectories(scene, 2, 3)
        with OpenGLRenderer.from_scene(scene, expected.light, context) as renderer:
            clips = list(renderer.render_all(trajectories, SIZE, SIZE))
        pairs += [
            (expected.render(trajectory, SIZE, SIZE), clip)
            for trajectory, clip in zip(trajectories, clips, strict=True)
        ]
    return pairs


def test_depth_agrees(pairs):
    for expected, found in pairs:
        assert (np.abs(expected.depth - found.depth) <= 0.01).mean() >= 0.999


def test_instances_agree(pairs):
    for expected, found in pairs:
        assert (expected.instance == found.instance).mean() >= 0.995
        assert len(np.unique(found.instance)) > 2


def test_colours_agree(pairs):
    for expected, found in pairs:
        difference = np.abs(expected.rgb.astype(int) - found.rgb)
        assert difference.mean() < 6
        assert np.median(difference) <= 1


def test_cameras_and_layouts_are_the_same(pairs):
    for expected, found in pairs:
        np.testing.assert_array_equal(found.world_from_camera, expected.world_from_camera)
        np.testing.assert_array_equal(found.intrinsics, expected.intrinsics)
        for first, second in zip(expected, found, strict=True):
            assert (first.shape, first.dtype) == (second.shape, second.dtype)


def test_a_clip_does_not_depend_on_what_was_drawn_before(scenes, embree, context):
    """Rooms in turns, several sizes, odd widths, and one clip at a time or many."""
    trajectories = [sample_trajectories(scene, 2, frames) for scene, frames in zip(scenes, (2, 1, 3), strict=True)]
    arrays = [draw_arrays(scene, one.light) for scene, one in zip(scenes, embree, strict=True)]
    alone = []
    for data, (trajectory, _) in zip(arrays, trajectories, strict=True):
        with OpenGLRenderer(data, context) as renderer:
            alone.append(renderer.render(trajectory, 50, 34))
    renderers = [OpenGLRenderer(data, context) for data in arrays]
    for renderer, (_, other) in zip(renderers, trajectories, strict=True):
        renderer.render(other, 64, 64)

    for renderer, pair, expected in zip(renderers[::-1], trajectories[::-1], alone[::-1], strict=True):
        found, _ = renderer.render_all(pair, 50, 34)
        for first, second in zip(expected, found, strict=True):
            np.testing.assert_array_equal(first, second)
    for renderer in renderers:
        renderer.release()


def test_clips_larger_than_one_image_are_drawn_in_parts(scenes, embree, context, monkeypatch):
    trajectories = sample_trajectories(scenes[0], 2, 5)
    with OpenGLRenderer.from_scene(scenes[0], embree[0].light, context) as renderer:
        expected = list(renderer.render_all(trajectories, 48, 48))
        monkeypatch.setattr("vega3d.rooms.render.opengl.LARGEST_IMAGE", 2 * 48 * 48)
        found = list(renderer.render_all(trajectories, 48, 48))

    for first, second in zip(expected, found, strict=True):
        assert first.rgb.shape == second.rgb.shape
        # The place of a frame in the image moves corners by fractions of 1/256 px.
        assert np.abs(first.rgb.astype(int) - second.rgb).mean() < 0.1
        assert (np.abs(first.depth - second.depth) <= 0.01).mean() >= 0.999
        assert (first.instance == second.instance).mean() >= 0.999


def test_a_released_room_draws_no_more(scenes, embree, context):
    renderer = OpenGLRenderer.from_scene(scenes[0], embree[0].light, context)
    trajectory = sample_trajectories(scenes[0], 1, 1)[0]
    renderer.render(trajectory, 32, 32)
    renderer.release()

    with pytest.raises(AttributeError, match="InvalidObject"):
        renderer.render(trajectory, 32, 32)


def test_light_of_another_room_is_refused(scenes, embree):
    with pytest.raises(ValueError, match="Bake it"):
        draw_arrays(scenes[0], embree[1].light)


def test_sizes_are_checked(scenes, embree, context):
    with (
        OpenGLRenderer.from_scene(scenes[0], embree[0].light, context) as renderer,
        pytest.raises(ValueError, match="8 x 64"),
    ):
        renderer.render(sample_trajectories(scenes[0], 1, 1)[0], 8, 64)


def test_missing_moderngl_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'vega3d\[render\]'"):
        OpenGLContext()


def test_missing_opengl_is_named():
    with pytest.raises(ValueError, match=r"device 99 .*libegl1, .*__EGL_VENDOR_LIBRARY_FILENAMES"):
        OpenGLContext(device=99)


@pytest.mark.parametrize(
    ("visible", "cards"),
    [(None, [0, 1, 2]), ("", [0, 1, 2]), ("1", [1]), ("2, 0", [2, 0]), ("7", [0, 1, 2]), ("GPU-3f1a", [0, 1, 2])],
)
def test_processes_draw_on_the_cards_that_are_visible(visible, cards):
    assert visible_cards(3, visible) == cards


def test_every_card_that_is_listed_draws(context):
    assert egl_cards() >= 1
    last = OpenGLContext(egl_cards() - 1)
    assert last.device == context.device
    last.release()
