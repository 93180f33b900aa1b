"""Clips from worker processes: the same for any number of them, and nothing is left behind."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

pytest.importorskip("embreex")

from stream_jobs import die_at_two, double, refuse_two
from vega3d.rooms import load_furniture, sample_scene, scene_seed
from vega3d.rooms.dataset.stream import stream_clips
from vega3d.rooms.dataset.workers import run_in_order
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.scene.trajectory import sample_trajectories

SMALL = {"trajectories": 2, "num_frames": 2, "size": 32, "renderer": "embree", "quality": "fast"}


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def same(first, second):
    assert first[:2] == second[:2]
    for one, other in zip(first.clip, second.clip, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def streamed():
    return list(stream_clips("train", rooms=2, **SMALL))


def test_two_workers_give_the_same_clips_in_the_same_order(streamed):
    for first, second in zip(streamed, stream_clips("train", rooms=2, workers=2, **SMALL), strict=True):
        same(first, second)


def test_clips_are_those_of_the_renderer(streamed):
    assert [one[:2] for one in streamed] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    scene = sample_scene(scene_seed("train", 1), load_furniture())
    renderer = EmbreeRenderer(scene, "fast")
    trajectories = sample_trajectories(scene, 2, 2)
    for one, trajectory in zip(streamed[2:], trajectories, strict=True):
        for found, expected in zip(one.clip, renderer.render(trajectory, 32, 32), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_opengl_draws_what_the_worker_sends(streamed):
    pytest.importorskip("moderngl", reason="rendering with OpenGL needs moderngl")
    from vega3d.rooms.render.opengl import shared_context

    try:
        shared_context()
    except ValueError as error:
        pytest.skip(f"no OpenGL here: {error}")
    settings = SMALL | {"renderer": "opengl"}
    for expected, found in zip(streamed[2:], stream_clips("train", 1, 1, **settings), strict=True):
        assert expected[:2] == found[:2]
        np.testing.assert_array_equal(expected.clip.world_from_camera, found.clip.world_from_camera)
        assert (np.abs(expected.clip.depth - found.clip.depth) <= 0.01).mean() > 0.995
        assert np.abs(expected.clip.rgb.astype(int) - found.clip.rgb).mean() < 8


def test_jobs_come_in_order_and_closing_early_leaves_no_process_and_no_file():
    files, before = descriptors(), set(os.listdir("/dev/shm"))
    results = run_in_order(double, iter(range(10**9)), 1, 3)
    kept = [next(results) for _ in range(7)]
    assert len(multiprocessing.active_children()) == 1

    results.close()

    assert not multiprocessing.active_children()
    assert set(os.listdir("/dev/shm")) <= before
    assert [result.number for result in kept] == list(range(7))
    for result in kept:
        info, arrays = double(result.number)
        assert result.info == info
        for found, expected in zip(result.arrays, arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
    del kept, result, found
    assert descriptors() <= files


def test_what_a_worker_raises_reaches_the_caller():
    results = run_in_order(refuse_two, iter(range(9)), 1, 2)

    assert [next(results).number, next(results).number] == [0, 1]
    with pytest.raises(ValueError, match="room 2 is refused"):
        next(results)
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_noticed():
    with pytest.raises(RuntimeError, match=rf"exit code -{signal.SIGKILL.value}"):
        list(run_in_order(die_at_two, iter(range(9)), 1, 1))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"trajectories": 0}, "trajectories is 0"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"rooms": 0}, "rooms is 0"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"renderer": "blender"}, "'blender'"),
        ({"quality": "best"}, "'best'"),
        ({"split": "dev"}, "'dev'"),
        ({"start": -1}, "-1"),
        ({"size": 8}, "8 x 8"),
    ],
)
def test_bad_arguments_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        stream_clips(**settings)
