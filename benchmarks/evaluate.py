"""Questions a second of the evaluator, one at a time and in batches, in one run.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py --output evaluate.json                      # CPU, embedded model
    python benchmarks/evaluate.py --model org/vega3d --num-frames 32 --output evaluate.json     # GPU

Questions of ten types about the two shipped clips. The ways take turns; each pass starts with nothing kept, so it
encodes each clip once. Times are of the whole pass, without loading the model.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers

import vega3d
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.metrics import CHOICE_TYPES, NUMERIC_TYPES
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.load import load_vega
from vega3d.shipped import example_clip


def questions(count: int) -> list[AnnotatedQuestion]:
    """`count` questions about each clip, half of them choices of four, of different lengths."""
    types = [name for pair in zip(CHOICE_TYPES, (*NUMERIC_TYPES, *NUMERIC_TYPES), strict=False) for name in pair]
    records = []
    for clip in ("room", "study"):
        for number in range(count):
            name = types[number % len(types)]
            options = tuple(f"the {letter}-side" for letter in "ABCD") if name in CHOICE_TYPES else ()
            text = f"Question {number}: which of the things in this room is {'much ' * (number % 5)}nearer to the bed?"
            truth = "A" if options else "2"
            records.append(
                AnnotatedQuestion(
                    example_clip(clip),
                    text,
                    options,
                    id=f"{clip}{number}",
                    dataset="clips",
                    scene=clip,
                    question_type=name,
                    answer=truth,
                )
            )
    return records


def seconds_of_pass(model, processor, records, name: str, num_frames: int, batch_size: int) -> tuple[float, list]:
    answerer = ModelAnswerer(model, processor, name, num_frames)
    start = time.perf_counter()
    result = evaluate(answerer, records, batch_size=batch_size, resamples=1)
    return time.perf_counter() - start, [question["answer"] for question in result["questions"]]


def compare_sizes(model, processor, records: list[AnnotatedQuestion], num_frames: int, options) -> list[dict]:
    """One row for each batch size; ratio and answers against the first one."""
    times: dict[int, list[float]] = {size: [] for size in options.batch_sizes}
    answers = {}
    for repeat in range(options.repeats + 1):
        for size, spent in times.items():
            seconds, answers[size] = seconds_of_pass(model, processor, records, options.model, num_frames, size)
            if repeat:  # the first pass warms up
                spent.append(seconds)
    first = options.batch_sizes[0]
    medians = {size: statistics.median(spent) for size, spent in times.items()}
    return [
        {
            "num_frames": num_frames,
            "batch_size": size,
            "seconds": medians[size],
            "seconds_range": [min(spent), max(spent)],
            "questions_per_second": len(records) / medians[size],
            "ratio": medians[first] / medians[size],
            "same_answers": sum(map(str.__eq__, answers[size], answers[first])) / len(records),
        }
        for size, spent in times.items()
    ]


def show(row: dict) -> None:
    low, high = row["seconds_range"]
    print(
        f"{row['num_frames']:3} frames, batch {row['batch_size']:3}: {row['seconds']:7.2f} s ({low:.2f} to {high:.2f})"
        f"  {row['questions_per_second']:7.2f} questions/s  ratio {row['ratio']:.2f}"
        f"  same answers {row['same_answers']:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vega3d-tiny")
    parser.add_argument("--questions", type=int, default=20, help="about each of the two clips")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    model, processor = load_vega(options.model, device=options.device)
    records = questions(options.questions)
    rows = [row for frames in options.num_frames for row in compare_sizes(model, processor, records, frames, options)]
    for row in rows:
        show(row)
    cuda = model.device.type == "cuda"
    results = {
        "command": "python benchmarks/evaluate.py",
        "settings": {**vars(options), "output": None, "device": str(model.device), "dtype": str(model.dtype)},
        "hardware": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            "vega3d": vega3d.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
