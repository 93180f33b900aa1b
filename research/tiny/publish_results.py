"""What of `collect_results.py` is published: figures without logs of each step, questions and paths; small pictures.

python -m research.tiny.collect_results runs/all --output kept
python -m research.tiny.publish_results kept --output research/tiny/results
"""

import argparse
import json
import shutil
import sys
import tarfile
from functools import partial
from pathlib import Path

from PIL import Image

from vega3d.evaluation.answerers import constant_scores
from vega3d.files import write_whole

PATHS = ("generator", "model", "command")  # of the machine
SWEEP_FIGURES = ("depth_rmse", "centred_retrieval_1", "centred_retrieval_1_chance")
LOG_ROWS = 40
WIDTH = 900  # [px]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, help="folder of collect_results.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--arm", default="trained", help="of which gate maps are published")
    return parser.parse_args()


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def write(path: Path, values) -> None:
    text = json.dumps(rounded(values), separators=(",", ":")).replace("},{", "},\n{") + "\n"
    write_whole(path, partial(Path.write_text, data=text))


def training(values: dict) -> dict:
    """A training with some rows of its log, and all with validation figures."""
    log, every = values["log"], max(1, len(values["log"]) // LOG_ROWS)
    kept = [row for n, row in enumerate(log) if n % every == 0 or any(name.startswith("validation") for name in row)]
    return {**values, "log": [*kept, *([] if kept[-1] is log[-1] else log[-1:])]}


def sweep(values: dict) -> dict:
    """A sweep with the figures that choose its cell."""
    cells = [
        {**cell, "figures": {name: cell["figures"][name] for name in SWEEP_FIGURES if name in cell["figures"]}}
        for cell in values["cells"]
    ]
    return {"plan": values["plan"], "versions": values["versions"], "cells": cells}


def of_seeds(archive: Path) -> dict[str, dict[str, dict[str, float]]]:
    """For each split the official scores of each arm and seed, and those of a constant answer."""
    splits: dict[str, dict[str, dict[str, float]]] = {}
    with tarfile.open(archive) as files:
        for member in files:
            file = files.extractfile(member)
            assert file is not None, f"{member.name} is no file"
            result = json.load(file)
            scores = splits.setdefault(Path(member.name).parent.name, {})
            figures = result["summary"]["official"]["figures"]
            scores[Path(member.name).stem] = {name: figure["score"] for name, figure in figures.items()}
            if "constant" not in scores:
                scores["constant"] = constant_scores(result["questions"])
    return {split: dict(sorted(scores.items())) for split, scores in splits.items()}


def publish_figures(kept: Path, output: Path) -> None:
    for file in sorted(kept.glob("*.json")):
        values = {name: value for name, value in json.loads(file.read_text()).items() if name not in PATHS}
        if "log" in values:
            values = training(values)
        elif "cells" in values and "bootstrap" in values:
            values = sweep(values)
        write(output / file.name, values)
    for file in kept.glob("*.md"):
        write_whole(output / file.name, partial(shutil.copyfile, file))
    for archive in kept.glob("*.tar.xz"):
        name = archive.name.removesuffix(".tar.xz")
        write(output / f"{name}_seeds.json", of_seeds(archive))
    for recipe in kept.glob("arms/*"):
        logs = {file.stem: training(json.loads(file.read_text()))["log"] for file in sorted(recipe.glob("*.json"))}
        write(output / f"{recipe.name}_log.json", logs)
    seconds = {file.stem: json.loads(file.read_text())["seconds"] for file in sorted((kept / "tasks").glob("*.json"))}
    write(output / "seconds.json", seconds)


def publish_pictures(kept: Path, output: Path, arm: str) -> None:
    """Photographs as JPEG, drawings with few colours."""
    for file in [*sorted(kept.glob(f"gates_*_{arm}-*.png")), *kept.glob("samples.png")]:
        picture = Image.open(file).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        write_whole(output / f"{file.stem}.jpg", partial(picture.save, format="JPEG", quality=70, optimize=True))
    for file in [*kept.glob("depth_*.png"), *kept.glob("retrieval_*.png")]:
        picture = Image.open(file).convert("RGB").quantize(64)
        write_whole(output / file.name, partial(picture.save, format="PNG", optimize=True))


def main() -> None:
    options = parse()
    if not (options.kept / "tasks").is_dir():
        print(f"error: {options.kept} is no folder of collect_results.py.", file=sys.stderr)
        sys.exit(2)
    options.output.mkdir(parents=True, exist_ok=True)
    publish_figures(options.kept, options.output)
    publish_pictures(options.kept, options.output, options.arm)
    for file in sorted(options.output.iterdir()):
        print(f"{file} ({file.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
