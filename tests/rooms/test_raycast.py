"""Threads of the library that builds meshes for rays."""

import os
import subprocess
import sys

import pytest

BUILDS = """
import os
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from vega3d.rooms.render.light import use_one_thread
if {calm}:
    use_one_thread()
scene = EmbreeScene()
corners = np.random.default_rng(0).random((90_000, 3), np.float32)
TriangleMesh(scene, corners, np.arange(len(corners), dtype=np.int32).reshape(-1, 3))
scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
print(len(os.listdir("/proc/self/task")), len(os.sched_getaffinity(0)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or not os.path.isdir("/proc/self/task"), reason="of Linux")
def test_one_process_of_many_builds_by_one_thread_and_keeps_its_processors():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    counts = {}
    for calm in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", BUILDS.format(calm=calm)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        counts[calm] = [int(word) for word in done.stdout.split()[-2:]]

    processors = len(os.sched_getaffinity(0))

    assert counts[True] == [1, processors]
    assert counts[False][0] > 1 or processors == 1
