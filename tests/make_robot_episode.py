"""Makes `tests/fixtures/robot_episode`: a demonstration from an initial state that the embedded policy has not seen.

Its files are stored, because tests read it without the simulator.

    PYTHONPATH=tests:. python tests/make_robot_episode.py
"""

from pathlib import Path

from recipes.metaworld.commands import environments
from vega3d.robotics.episode_writer import EpisodeWriter
from vega3d.robotics.metaworld import ACTION_NAMES, FIRST_SEED, FPS, INSTRUCTIONS, STATE_NAMES
from vega3d.robotics.runners import Job, Plan, run_jobs

FOLDER = Path(__file__).parent / "fixtures" / "robot_episode"
TASK, SIZE, MOST_STEPS = "button-press-topdown-v3", 96, 300


def main() -> None:
    plan = Plan(environments(("front",), SIZE, "egl"), "expert", MOST_STEPS, record=True)
    [(_, recording)] = run_jobs(plan, [Job(TASK, FIRST_SEED)])
    assert recording is not None
    with EpisodeWriter(FOLDER, FPS, "sawyer", STATE_NAMES, ACTION_NAMES) as writer:
        writer.write(recording.frames, recording.states, recording.actions, INSTRUCTIONS[TASK])


if __name__ == "__main__":  # not in the worker process
    main()
