"""What `reproduce.py` leaves of lasting interest, in one small folder: figures as JSON, tables, pictures, logs.

python -m research.tiny.collect_results runs/all --output research/tiny/results
"""

import argparse
import shutil
import sys
from pathlib import Path

FILES = {  # in the folder of a run, `*` standing for the names of recipes: file in the folder of results
    "world-simulator/runs/vae/result.json": "vae.json",
    "world-simulator/runs/generator/result.json": "generator.json",
    "world-simulator/runs/image-twin/result.json": "image_twin.json",
    "world-simulator/runs/*/curves.png": "curves_{0}.png",
    "analysis/choice.json": "choice.json",
    "analysis/*/summary.json": "sweep_{0}.json",
    "analysis/*/heatmap_depth_rmse.png": "depth_{0}.png",
    "analysis/*/heatmap_centred_retrieval_1.png": "retrieval_{0}.png",
    "samples/samples.png": "samples.png",
    "samples/samples.json": "samples.json",
    "stage0/validation.json": "stage0.json",
    "stage0/training.json": "stage0_log.json",
    "*/base/validation.json": "base_{0}.json",
    "*/base/training.json": "base_{0}_log.json",
    "*/arms/*/*/training.json": "arms/{0}/{1}-{2}.json",
    "*/results.json": "{0}.json",
    "*/results.md": "{0}.md",
    "*/results.tar.xz": "{0}.tar.xz",
    "*/points.json": "points_{0}.json",
    "*/points.md": "points_{0}.md",
    "*/base/points.json": "points_{0}_base.json",
    "*/gates/*.png": "gates_{0}_{1}.png",
    "*/gates/figures.json": "gates_{0}.json",
    "tasks/*.json": "tasks/{0}.json",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="--output of reproduce.py; what is not there yet is left out")
    parser.add_argument("--output", type=Path, required=True, help="folder to copy into")
    return parser.parse_args()


def stars(pattern: str, path: Path) -> list[str]:
    """What the stars of a pattern stand for in a path."""
    found = []
    for wanted, part in zip(pattern.split("/"), path.parts, strict=True):
        before, star, after = wanted.partition("*")
        if star:
            found.append(part.removeprefix(before).removesuffix(after))
    return found


def main() -> None:
    options = parse()
    if not (options.run / "tasks").is_dir():
        print(f"error: {options.run} is no folder of reproduce.py.", file=sys.stderr)
        sys.exit(2)
    for pattern, name in FILES.items():
        for path in sorted(options.run.glob(pattern)):
            target = options.output / name.format(*stars(pattern, path.relative_to(options.run)))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            print(f"{target} ({target.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
