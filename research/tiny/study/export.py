"""The winner as a checkpoint folder, as small as the embedded one has to be."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from research.tiny.study.experiment import Experiment, load_arm
from research.tiny.study.grounding import add_ground_tokens
from research.tiny.study.model_card import model_card
from research.tiny.study.recipe import VALIDATION, Recipe
from research.tiny.study.table import NEED_SPACE, ROWS, SPATIAL, markdown
from research.tiny.study.wordings import known_questions
from vega3d.evaluation.answerers import constant_scores
from vega3d.evaluation.metrics import CATEGORIES, QUESTION_TYPES
from vega3d.evaluation.report import percent, read_result, span
from vega3d.files import LOCK, check_new_folder, read_json, whole_folder, write_json, write_whole
from vega3d.hub.assemble import describe, make_processor
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.modeling_vega3d import VegaTaskModel

LARGEST_FILE, LARGEST_FOLDER = 16_000_000, 26_000_000  # bytes


def best_seed(experiment: Experiment, arm: str) -> int:
    """The seed with the highest mean of the rows that need space, on validation rooms; test rooms choose nothing.

    Raises:
        ValueError: if a result is missing, or all runs are void.
    """
    void = experiment.void_runs([arm]).get(arm, {})
    heard = [seed for seed in experiment.recipe.seeds if seed not in void]
    if not heard:
        raise ValueError(f"All runs of {arm} are void: {void}. Lower the rates of projector and gate.")

    def score(seed: int) -> float:
        figures = read_result(experiment.result_file(VALIDATION, arm, seed))["summary"]["official"]["figures"]
        return float(np.mean([figures[name]["score"] for name in NEED_SPACE if name in figures]))

    return max(heard, key=score)


def export(
    experiment: Experiment,
    arm: str,
    output: Path,
    name: str,
    dtype: torch.dtype = torch.bfloat16,
    notice: str | None = None,
) -> dict:
    """Writes model, generator, processor and card; `output` appears only when it is whole.

    `name` is for the card, `notice` what the model says about itself with every answer.

    Returns:
        `seed`, `disk` [bytes], `files` with their sizes [bytes].

    Raises:
        ValueError: if `output` is there and not empty, a result is missing, or a file or the folder is too large.
    """
    check_new_folder(output)
    seed = best_seed(experiment, arm)
    if experiment.recipe.arms[arm].stream not in experiment.recipe.generators:
        raise ValueError(
            f"The arm {arm!r} has no generator, so it cannot be used outside of the study. Export another."
        )
    model = experiment.reader(arm, seed).model.cpu()
    load_arm(model, experiment.run_folder(arm, seed))
    model.config.notice = notice
    model.config.answers_in_words = experiment.recipe.answers == "words"
    model.config.boxes_in_words = True  # as all rows of the study are
    model.config.questions = known_questions(experiment.recipe.categories, guesses(experiment, arm, seed))
    with whole_folder(output) as partial_folder:
        save_model(model, experiment, partial_folder, dtype)
        write_card(experiment, arm, seed, partial_folder, name)
        sizes = check_sizes(partial_folder)
    return {"seed": seed, "disk": sum(sizes.values()), "files": sizes}


def save_model(model: VegaTaskModel, experiment: Experiment, folder: Path, dtype: torch.dtype) -> None:
    model.cast_weights(dtype)
    model.save_pretrained(folder)
    rooms = experiment.recipe.rooms
    processor = make_processor(
        experiment.vlm,
        model.config.generator_config,
        num_frames=rooms.num_frames,
        generator_max_area=rooms.size**2,
    )
    for part in (processor.image_processor, processor.video_processor):
        # Larger frames have more tokens than it was trained on, at places that it has never seen.
        part.size = {"shortest_edge": part.size["shortest_edge"], "longest_edge": rooms.size**2}
    if isinstance(model, VegaForVisualGrounding):
        add_ground_tokens(processor.tokenizer)
    processor.save_pretrained(folder)
    strip_local(folder)
    strip_spaces(folder / "tokenizer.json")
    load_in_float32(folder)


def strip_local(folder: Path) -> None:
    """Removes code, which the package holds already, and the paths of this machine."""
    for file in folder.glob("*.py"):
        file.unlink()
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        for part in (values, *(part for part in values.values() if isinstance(part, dict))):
            part.pop("auto_map", None)
            part.pop("_name_or_path", None)
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def strip_spaces(file: Path) -> None:
    """Writes a JSON file again without what stands between its values: of a tokenizer's that is more than half."""
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def load_in_float32(folder: Path) -> None:
    """Has `dtype="auto"` widen the stored 16 bits, in which most CPUs take four times as long."""
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "dtype": "float32"})


def write_card(experiment: Experiment, arm: str, seed: int, folder: Path, name: str) -> None:
    described = describe(folder)
    results = experiment.own / "results.json"
    values = json.loads(results.read_text()) if results.is_file() else None
    tables = "Not measured.\n" if values is None else markdown(values)
    generator = json.loads((folder / "config.json").read_text())["generator_config"]
    rooms = experiment.recipe.rooms
    card = model_card(
        {
            "name": name,
            "recipe": experiment.recipe.name,
            "parameters": described["parameters"],
            "frames": rooms.num_frames,
            "size": rooms.size,
            "block": described["block"],
            "timestep": generator["timestep"],
            "clip_mode": generator["clip_mode"],
            "fusion": described["fusion"],
            "notice": described["notice"] or "",
            "disk": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
            "summary": "" if values is None else summary(values, arm),
            "own": own_table(experiment, arm, seed),
            "tables": "\n".join(tables.replace("\n## ", "\n### ").splitlines()[2:]),
            "arm": arm,
            "seed": seed,
            "train_rooms": f"{rooms.train:,}",
            "untrained": untrained(experiment.recipe),
        }
    )
    write_whole(folder / "README.md", partial(Path.write_text, data=card))


def untrained(recipe: Recipe) -> str:
    """A sentence about the question types that the recipe leaves out, or nothing."""
    names = [f"`{name}`" for name in QUESTION_TYPES if name not in recipe.categories]
    return f" It was not trained on {', '.join(names)}." if names else ""


def summary(values: dict, arm: str) -> str:
    """What the generator brings: averages of the arm and of each control, on test rooms if there are any."""
    split = "test" if "test" in values["splits"] else VALIDATION
    found = values["splits"][split]["official"]
    lines = [
        f"Means over {len(values['seeds'])} seeds on {found['scenes']:,} rooms of the split `{split}`: the macro "
        "average of VSI-Bench's categories, and the spatial macro, that of the rows which names alone do not answer.",
        "",
        "| | macro | spatial macro |",
        "|---|---|---|",
    ]
    for pair, differences in found["differences"].items():
        first, control = pair.split(" - ")
        if first == arm:
            cells = [difference_told(found["scores"], differences, name, arm, control) for name in ("macro", SPATIAL)]
            lines.append(f"| `{arm}` - `{control}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_told(scores: dict, differences: dict, name: str, arm: str, control: str) -> str:
    """Both averages, and their difference as `+1.2 [-0.5, 2.8]`, bold where it leaves out 0; empty if not measured."""
    if name not in differences:
        return ""
    interval, is_noise = differences[name]["interval"], differences[name]["verdict"] == "noise"
    own, other = (percent(scores[column][name]["score"]) for column in (arm, control))
    points = f"{100 * interval['score']:+.1f} {span(interval['low'], interval['high'])}"
    return f"{own} - {other}: {points if is_noise else f'**{points}**'}"


def own_scores(experiment: Experiment, arm: str, seed: int) -> tuple[str, dict[str, dict], dict[str, float]]:
    """The split, its official figures by category, and those of an answer that ignores the question.

    Of test rooms if they were asked about; of validation rooms otherwise, which chose the seed.
    """
    is_tested = experiment.result_file("test", arm, seed).is_file()
    split = "test" if is_tested else VALIDATION
    result = read_result(experiment.result_file(split, arm, seed))
    return split, result["summary"]["official"]["figures"], constant_scores(result["questions"])


def guesses(experiment: Experiment, arm: str, seed: int) -> set[str]:
    """Question types of the categories that are not shown to be above an answer that ignores the question."""
    _, figures, constant = own_scores(experiment, arm, seed)
    lows = {name: figures[name]["low"] for name in CATEGORIES if name in figures}  # None without an interval
    not_above = [name for name, low in lows.items() if low is None or low <= constant.get(name, 0.0)]
    return {question_type for name in not_above for question_type in CATEGORIES[name]}


def own_table(experiment: Experiment, arm: str, seed: int) -> str:
    """The scores of this checkpoint, beside those of an answer that ignores the question."""
    split, figures, constant = own_scores(experiment, arm, seed)
    lines = [
        f"This checkpoint by itself on the split `{split}`, beside an answer that ignores the question: the best "
        "constant number, or chance.",
        "",
        "| category | this checkpoint | constant |",
        "|---|---|---|",
    ]
    for name in ROWS:
        if name in figures:
            value = figures[name]
            own = f"{percent(value['score'])} {span(value['low'], value['high'])}"
            lines.append(f"| {name} | {own} | {percent(constant.get(name))} |")
    return "\n".join(lines)


def check_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file; raises ValueError if one, or all together, are too large to be embedded."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != LOCK]
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    for name, size in sizes.items():
        if size >= LARGEST_FILE:
            raise ValueError(f"{name} has {size:,} bytes, but must be below {LARGEST_FILE:,}. Make the model smaller.")
    if sum(sizes.values()) > LARGEST_FOLDER:
        raise ValueError(
            f"{folder.name} has {sum(sizes.values()):,} bytes, but at most {LARGEST_FOLDER:,} are embedded. Make the "
            "model smaller."
        )
    return sizes
