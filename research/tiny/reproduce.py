"""Everything from nothing: rooms, world simulator, image twin, vision tower, arms and seeds, tables, checkpoint.

Each step is a command of its own, one after another; the same call goes on where it was stopped or killed.

CONFIGS=research/tiny/configs
python -m research.tiny.reproduce $CONFIGS/generator.yaml $CONFIGS/study.yaml --output runs/all --device cuda \\
    --workers 15
python -m research.tiny.reproduce $CONFIGS/smoke_generator.yaml $CONFIGS/smoke.yaml --output runs/smoke   # on a CPU
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from research.tiny.study.recipe import read_recipe

FOLDERS = {"trained": "generator", "twin": "image-twin"}  # names of recipes, and of `train-generator`


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path, help="config of the world simulator")
    parser.add_argument("recipe", type=Path, help="of the study")
    parser.add_argument("--output", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=1, help="processes that make rooms")
    parser.add_argument("--furniture", type=Path, help="pack of objects for test_unseen")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the world simulator")
    parser.add_argument("--checkpoint", type=Path, help="folder to export the best seed of `trained` into")
    return parser.parse_args()


def commands(options: argparse.Namespace) -> Iterator[list[str]]:
    """Arguments of `python -m`, step after step."""
    simulator = options.output / "world-simulator"
    settings = [*options.set, f"output={simulator}", f"rooms.workers={options.workers}"]
    train = ["research.tiny.simulator", "train-generator", str(options.generator)]
    train += [word for setting in settings for word in ("--set", setting)]
    yield [*train, "--stage", "rooms"]
    yield [*train, "--stage", "vae"]
    yield [*train, "--stage", "dit"]
    study = ["research.tiny.study", str(options.recipe), "--output", str(options.output), "--device", options.device]
    for name in read_recipe(options.recipe).generators:
        if name == "twin":
            yield [*train, "--stage", "dit", "--image-twin"]
        study += ["--generator", f"{name}={simulator / FOLDERS[name]}"] if name in FOLDERS else []
    study += ["--workers", str(options.workers)]
    study += ["--furniture", str(options.furniture)] if options.furniture else []
    yield study
    if options.checkpoint is not None and not options.checkpoint.exists():
        yield [*study, "--stages", "export", "--checkpoint", str(options.checkpoint)]


def main() -> None:
    for command in commands(parse()):
        print(f"$ python -m {shlex.join(command)}", flush=True)
        done = subprocess.run([sys.executable, "-m", *command], check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
