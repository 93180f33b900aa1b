"""Checkpoints of a run: whole or not there, with the trained weights alone.

The frozen weights are those of the model that the run started from, so a checkpoint does not repeat them (nor the
generator's files): it holds `trained.safetensors`, and the Trainer's optimizer, scheduler, random states and log, each
whole also where processes hold pieces of it (FSDP2; DeepSpeed writes its own files). `batches.json` says how rows were
shared out. `whole.json`, written last, has the length and checksum of each file.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerState, TrainingArguments

from vega3d.files import read_json, whole_file, write_json
from vega3d.runs import checksum
from vega3d.training.several import like

WHOLE_FILE = "whole.json"
PREFIX = "checkpoint-"
TRAINED_FILE = "trained.safetensors"
STATE_FILE = "trainer_state.json"
BATCHES_FILE = "batches.json"
OPTIMIZER_FILES = ("optimizer.pt", "scheduler.pt")
FILES_OF_OTHERS = ("config.json", "adapter_*", "model*", "pytorch_model*", "global_step*")
logger = logging.getLogger(__name__)


def mark_whole(folder: Path) -> None:
    """Says that all files of a checkpoint are written, how long they are and what they hold; written last."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    files.pop(WHOLE_FILE, None)
    written = {name: {"bytes": file.stat().st_size, "xxh3": checksum(file)} for name, file in files.items()}
    write_json(folder / WHOLE_FILE, written)


def damage(folder: Path, required: Sequence[str] = ()) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole, and has the files that are required.

    Its `whole.json` may be an older one, which has the lengths of the files alone.
    """
    try:
        files = read_json(folder / WHOLE_FILE)
    except ValueError as error:
        return str(error)
    missing = [name for name in required if name not in files]
    if missing:
        return f"it has no {', '.join(missing)}"
    return next(filter(None, (file_damage(folder / name, written) for name, written in files.items())), None)


def file_damage(file: Path, written: Any) -> str | None:
    """What is wrong with a file, by the length, or length and checksum, with which it was written."""
    length = written.get("bytes") if isinstance(written, dict) else written
    if not isinstance(length, int):
        return f"{WHOLE_FILE} does not say the length of {file.name}"
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != length:
        return f"{file.name} has {file.stat().st_size} bytes, but was written with {length}"
    if isinstance(written, dict) and written.get("xxh3") != checksum(file):
        return f"{file.name} was changed after it was written"
    return None


def last_whole_checkpoint(folder: Path, required: Sequence[str] = (), others: Sequence[str] = ()) -> Path | None:
    """The newest checkpoint that was written to its end; what a killed process left half is removed.

    Args:
        folder: with a folder `checkpoint-N` for each checkpoint, N its step; other files in it stay.
        required: files without which a run is not continued.
        others: patterns of files that only other programs write.

    Raises:
        ValueError: if a checkpoint is another program's, or is whole without a file that is required.
    """
    numbered = {
        int(path.name.removeprefix(PREFIX)): path
        for path in folder.glob(f"{PREFIX}*")
        if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    }
    for step in sorted(numbered, reverse=True):
        path = numbered[step]
        wrong = damage(path)
        if wrong is None:
            check_required(path, required)
            return path
        foreign = sorted(file.name for pattern in others for file in path.glob(pattern))
        if foreign and not (path / WHOLE_FILE).exists():
            raise ValueError(
                f"{path} holds {foreign[0]}, so it is another program's checkpoint, which cannot be continued from "
                "here. Give another output folder."
            )
        if (path / WHOLE_FILE).exists():
            logger.warning("%s is damaged (%s), so it is removed and an earlier checkpoint is used.", path, wrong)
        shutil.rmtree(path)
    return None


def check_required(folder: Path, required: Sequence[str]) -> None:
    """Raises ValueError if a whole checkpoint has not all that a run needs to go on as before."""
    wrong = damage(folder, required)
    if wrong is not None:
        raise ValueError(
            f"{folder} cannot be continued from: {wrong}. Restore it, or remove {folder} to use an earlier one."
        )


@contextlib.contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Turns what torch and safetensors raise on a full disk into an OSError that names the folder."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # torch.save has no type of its own, but other faults have
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"{folder} cannot be written: {reason}. Make room on the disk, or give another output."
        ) from error


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_tensors(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes the trained weights of a checkpoint."""
    with whole_file(folder / TRAINED_FILE) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


def load_trained(model: nn.Module, folder: Path) -> None:
    """Puts the trained weights of a checkpoint into a model of which the same parts are trained.

    The model may be sharded (FSDP2); then each process takes its pieces.
    """
    path = folder / TRAINED_FILE
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Remove {folder} to continue from an earlier one."
        ) from error
    put_trained(model, tensors, path)


@torch.no_grad()
def put_trained(model: nn.Module, tensors: Mapping[str, torch.Tensor], origin: Path) -> None:
    """Puts trained weights, by name, into a model; raises ValueError if others are trained there than `origin` has."""
    parameters = trained_parameters(model)
    wanted = {name: shape_in_files(parameter) for name, parameter in parameters.items()}
    found = {name: shape_in_files(tensor) for name, tensor in tensors.items()}
    if wanted != found:
        other = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise ValueError(f"{origin} holds other weights than are trained here, such as {other}. Train the same parts.")
    for name, parameter in parameters.items():
        parameter.copy_(like(tensors[name], parameter))


def shape_in_files(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape of a tensor, that of one value without dimensions: FSDP2 gives scalars one, files do not."""
    return () if tensor.numel() == 1 else tuple(tensor.shape)


def random_file(process: int, processes: int) -> str:
    """The name that the Trainer gives to the random state of a process."""
    return "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"


def needed_files(processes: int, is_deepspeed: bool = False) -> list[str]:
    """Files without which a run does not go on as it would have."""
    randoms = [random_file(process, processes) for process in range(processes)]
    optimizer = OPTIMIZER_FILES[is_deepspeed:]  # DeepSpeed's lies in files of its own
    return [TRAINED_FILE, STATE_FILE, *optimizer, *randoms]


@dataclass(frozen=True)
class Batches:
    """How the rows of a step are shared out, on which their order depends when a run continues."""

    processes: int
    batch_size: int
    gradient_accumulation: int
    is_stream: bool = False
    is_deepspeed: bool = False

    @property
    def rows(self) -> int:
        """Rows of one step."""
        return self.processes * self.batch_size * self.gradient_accumulation

    def __str__(self) -> str:
        return (
            f"{self.processes} process(es) x batch_size {self.batch_size} x gradient_accumulation "
            f"{self.gradient_accumulation}"
        )

    def needed_files(self) -> list[str]:
        return needed_files(self.processes, self.is_deepspeed)

    def save(self, folder: Path) -> None:
        write_json(folder / BATCHES_FILE, asdict(self))


def batches_of_arguments(args: TrainingArguments, is_stream: bool, is_deepspeed: bool) -> Batches:
    shares = args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps
    return Batches(*shares, is_stream, is_deepspeed)


def batches_of(folder: Path, now: Batches) -> Batches:
    """Those of a checkpoint; one of an earlier version, which does not say, has as many processes as there are now."""
    path = folder / BATCHES_FILE
    if not path.is_file():
        return now
    try:
        return Batches(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} cannot be used: {error}. Remove {folder} to use an earlier one.") from error


def check_batches(before: Batches, now: Batches, folder: Path) -> None:
    """Raises ValueError, saying why, if another number of processes would take rows in another order than before.

    In each pass rows are taken from one order, which seed and pass decide, so that equal steps get equal rows however
    many processes share them. Dropout is another with another number of processes, of which a warning tells.
    """
    if (before.processes, before.is_deepspeed) == (now.processes, now.is_deepspeed):
        return
    if before.is_deepspeed or now.is_deepspeed:
        name = "DeepSpeed" if before.is_deepspeed else "DDP or FSDP"
        raise ValueError(
            f"{folder} is of {before} with {name}, and here are {now}: DeepSpeed stores a piece of the optimizer for "
            f"each process. Continue with {name} and {before}."
        )
    if before.is_stream or now.is_stream:
        raise ValueError(
            f"{folder} is of {before}, and here are {now}: a stream shares out its rows by these, so their order "
            f"would be another. Continue with {before}."
        )
    if before.rows != now.rows:
        steps, rest = divmod(before.rows, now.processes * now.batch_size)
        advice = f"gradient_accumulation to {steps}" if not rest else f"the three so that they make {before.rows} rows"
        raise ValueError(
            f"{folder} is of {before}, {before.rows} rows a step, and here are {now}, {now.rows} rows: their "
            f"order would be another. Set {advice}, or continue as before."
        )
    logger.warning("%s is of %s, and continued with %s: the same rows, but other dropout.", folder, before, now)


def last_checkpoint(folder: Path, now: Batches) -> Path | None:
    """`last_whole_checkpoint` of this trainer; raises ValueError if rows would come in another order after it."""
    checkpoint = last_whole_checkpoint(folder, others=FILES_OF_OTHERS)
    if checkpoint is not None:
        check_continued(checkpoint, now)
    return checkpoint


def check_checkpoint(folder: Path, now: Batches) -> None:
    """Raises ValueError for a checkpoint that is not whole, or from which a run would not go on as before."""
    wrong = damage(folder)
    if wrong is not None:
        raise ValueError(f"{folder} is no checkpoint of VegaTrainer, or not a whole one: {wrong}")
    check_continued(folder, now)
    read_state(folder)


def check_continued(folder: Path, now: Batches) -> None:
    before = batches_of(folder, now)
    check_batches(before, now, folder)
    check_required(folder, before.needed_files())


def read_state(folder: Path) -> TrainerState:
    """The Trainer's own account of a run; raises ValueError if its file cannot be read, or holds something else."""
    path = folder / STATE_FILE
    remedy = f"Remove {folder} to continue from an earlier checkpoint."
    values = read_json(path, remedy)
    steps = [values.get("global_step"), values.get("max_steps")]
    log = values.get("log_history")
    if not (isinstance(log, list) and all(isinstance(entry, Mapping) for entry in log)):
        raise ValueError(f"{path} cannot be used: its log_history is {type(log).__name__}, not a list. {remedy}")
    if not all(isinstance(step, int) for step in steps):
        raise ValueError(f"{path} cannot be used: global_step and max_steps are {steps}, not numbers. {remedy}")
    try:
        return TrainerState.load_from_json(str(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}. {remedy}") from error


@contextlib.contextmanager
def reading(folder: Path, *names: str) -> Iterator[None]:
    """Turns whatever a damaged or foreign pickle raises on loading into a ValueError that names the file.

    torch refuses pickles that hold more than tensors and plain values, so that nothing in them runs.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        files = [name for name in names if not is_loadable(folder / name)] or list(names)
        raise ValueError(
            f"{' or '.join(str(folder / name) for name in files)} cannot be used: {type(error).__name__}: "
            f"{str(error).partition('. ')[0]}. Remove {folder} to continue from an earlier checkpoint."
        ) from error


def is_loadable(file: Path) -> bool:
    """Whether torch takes a file for tensors and plain values, as the states of optimizer and scheduler are."""
    try:
        return isinstance(torch.load(file, map_location="cpu", weights_only=True), dict)
    except Exception:
        return False
