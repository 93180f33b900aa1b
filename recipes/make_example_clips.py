"""Renders the example clips that ship with the package, with a question of each type about them and its answer.

    python recipes/make_example_clips.py  # writes src/vega3d/assets/clips/{room,study}.mp4 and questions.json

Rooms of the validation split, of which neither the embedded model nor a benchmark of the test split knows anything.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from vega3d.files import write_whole
from vega3d.rooms import load_furniture, sample_scene, sample_trajectory, scene_seed
from vega3d.rooms.questions.observation import observe
from vega3d.rooms.questions.questions import make_questions
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.video_files import write_video

CLIPS = Path("src/vega3d/assets/clips")
CHOSEN = {"room": (4, "bedroom", 1), "study": (9, "study", 0)}  # room, its kind, trajectory
WIDTH, HEIGHT, NUM_FRAMES, FPS = 384, 288, 32, 8


def main() -> None:
    furniture = load_furniture()
    rows = []
    for name, (number, kind, trajectory) in CHOSEN.items():
        scene = sample_scene(scene_seed("validation", number), furniture, kind)
        clip = EmbreeRenderer(scene).render(sample_trajectory(scene, trajectory, NUM_FRAMES), WIDTH, HEIGHT)
        write_whole(CLIPS / f"{name}.mp4", partial(write_video, frames=clip.rgb, fps=FPS))
        observation = observe(scene, clip.instance)
        print(f"{name}: sees {', '.join(item.name for item in observation.visible)}")
        for question in make_questions(observation, (scene.seed, 3, trajectory), per_type=1):
            print(f"  {question.question} {' / '.join(question.options)} -> {question.answer}")
            rows.append({"clip": name, **asdict(question)})
            del rows[-1]["object_ids"]
    write_whole(CLIPS / "questions.json", lambda path: path.write_text(json.dumps(rows, indent=1) + "\n"))


if __name__ == "__main__":
    main()
