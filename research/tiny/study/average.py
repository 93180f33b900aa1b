"""The mean of a run's weights before and after its training with boxes, as a run of its own.

    python -m research.tiny.study.average runs/all/grounding/arms/trained/seed0 \
        --start runs/all/study/arms/trained/seed0 --share 0.7 --output runs/all/grounding-mean/arms/trained/seed0

Training for another task costs some of the first one; weights between both keep most of both (Wortsman et al. 2022,
arXiv 2109.01903). What `--start` does not have, such as a head and new tokens, stays as it is after the training. The
stages of the study take the new run by `--set name=grounding-mean`.
"""

import argparse
import json
import shutil
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from research.tiny.study.experiment import check_finished
from research.tiny.study.loop import HEAD, RESULT, TRAINED, save_tensors
from vega3d.files import check_new_folder, read_json, whole_folder, write_json, write_whole
from vega3d.runs import sha256


def mean_weights(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """`(1 - share) * before + share * after`, of the first rows where `after` has more, and `after` of other names.

    All in float32, also of weights that are stored in 16 bits.

    Raises:
        ValueError: for a weight that `after` lacks, or of which it has other columns or fewer rows.
    """
    mean = {name: value.to(torch.float32, copy=True) for name, value in after.items()}
    for name, value in before.items():
        if name not in mean:
            raise ValueError(f"{name} is a weight of the start alone. Give the run that this one began with.")
        shape, rows = tuple(mean[name].shape), value.shape[:1]
        if shape[1:] != tuple(value.shape[1:]) or shape[:1] < tuple(rows):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} in the start and {shape} after it. Give the run that this one "
                "began with."
            )
        part = mean[name][: len(value)] if value.ndim else mean[name]
        part.lerp_(value.float(), 1 - share)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, of an arm and a seed")
    parser.add_argument("--start", type=Path, required=True, help="folder of the run that it began with")
    parser.add_argument("--share", type=float, required=True, help="of the weights after the training, 0 to 1")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new run")
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share is {options.share}, but must be between 0 (the start) and 1 (the run)")
    try:
        write_mean(options.run, options.start, options.share, options.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")
    print(json.dumps({"output": str(options.output), "share": options.share}))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """What a run trained; raises ValueError if its file cannot be read."""
    try:
        return load_file(run / TRAINED)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{run / TRAINED} cannot be read: {error}. Train this run again.") from error


def write_mean(run: Path, start: Path, share: float, output: Path) -> None:
    """Writes the mean of two finished runs as a run; raises ValueError if one is not finished or they do not fit."""
    for folder in (run, start):
        check_finished(folder)
    check_new_folder(output)
    before, after = (weights_of(folder) for folder in (start, run))
    mean = mean_weights(before, after, share)
    made_of = {"run": sha256(run / TRAINED), "start": sha256(start / TRAINED), "share": share}
    with whole_folder(output) as partial_folder:
        write_whole(partial_folder / TRAINED, partial(save_tensors, tensors=mean))
        if (run / HEAD).is_file():
            shutil.copyfile(run / HEAD, partial_folder / HEAD)
        write_json(partial_folder / RESULT, {**read_json(run / RESULT), "mean_of": made_of})


if __name__ == "__main__":
    main()
