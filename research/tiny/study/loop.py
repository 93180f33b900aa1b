"""A training loop that a kill at any moment continues bit for bit: the data of a step is a function of its number.

RUN/state.safetensors   weights, moments, and in its metadata the step, the log, and what the run depends on
RUN/trained.safetensors the weights, written when all steps are done
RUN/head.safetensors    those of a head that is left behind, if there is one
RUN/training.json       the log and the settings
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from research.tiny.simulator.muon import Muon
from vega3d.files import write_json, write_whole
from vega3d.runs import check_same_run

STATE, TRAINED, RESULT = "state.safetensors", "trained.safetensors", "training.json"
HEAD = "head.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # Muon has no squares
LOOKED_AT_EVERY = 10  # steps; looking at a loss waits for the device
LAST_RATE = 0.1  # of the peak, at the end of the half cosine

Losses = dict[str, torch.Tensor]  # by name, each of one number; the first is their weighted sum
Step = Callable[[int], tuple[Losses, Sequence[torch.Tensor], list[str]]]


class OutOfTimeError(Exception):
    """The time given is over; what was done is kept, and the same call goes on."""


@dataclass
class Deadline:
    """A moment after which nothing long is begun; `seconds` from now, or never if None."""

    seconds: float | None = None

    def __post_init__(self):
        self.end = math.inf if self.seconds is None else time.monotonic() + self.seconds

    def check(self, what: str) -> None:
        if time.monotonic() > self.end:
            raise OutOfTimeError(what)


@dataclass(frozen=True)
class LoopSettings:
    """Where a run is stored, and how often."""

    folder: Path  # of the run
    identity: dict[str, Any]  # all that its result depends on, as plain values
    checkpoint_seconds: float = 60.0  # between checkpoints
    checkpoint_steps: int | None = None  # between checkpoints, in place of seconds


class Stage(Protocol):
    """What a loop needs of a recipe."""

    @property
    def steps(self) -> int: ...

    @property
    def warmup(self) -> int: ...

    @property
    def max_grad_norm(self) -> float: ...


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate: a ramp, then a half cosine to `LAST_RATE`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Loop:
    """
    Args:
        model: with `requires_grad` set.
        groups: of `training.parts.parameter_groups`.
        stage: its steps and rates.
        settings: of the run.
        deadline: after which it stops with a checkpoint.
        on_log: called with each entry of the log.
        head: trained with the model, and kept in a file of its own.
        measures: gives more values for each entry of the log, by its step.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict],
        stage: Stage,
        settings: LoopSettings,
        deadline: Deadline | None = None,
        on_log: Callable[[dict], None] | None = None,
        head: nn.Module | None = None,
        measures: Callable[[int], dict[str, float]] | None = None,
    ):
        self.stage = stage
        self.settings, self.deadline, self.on_log = settings, deadline or Deadline(), on_log
        self.measures = measures
        self.results: dict[str, dict[str, torch.Tensor]] = {
            TRAINED: {name: value for name, value in model.named_parameters() if value.requires_grad}
        }
        if head is not None:
            self.results[HEAD] = dict(head.named_parameters())
        self.trained = {f"head.{name}": value for name, value in self.results.get(HEAD, {}).items()}
        self.trained.update(self.results[TRAINED])
        self.device = next(iter(self.trained.values())).device
        for group in groups:
            group["peak"] = group["lr"]
        kind = Muon if any(group.get("muon") for group in groups) else torch.optim.AdamW
        self.optimizer = kind(groups, lr=0.0, betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.step = 0
        self.log: list[dict] = []
        self._waiting: list[tuple[int, list[str], Losses, torch.Tensor]] = []

    def run(self, compute: Step) -> list[dict]:
        """Trains to the end and returns the log; a run that is done only takes its weights.

        Args:
            compute: gives the losses of a step, the gradients of `trained`, and the ids of its rows.

        Raises:
            ValueError: for a loss or gradient that is not finite, naming step and rows; if the folder holds a run of
                another recipe.
            OutOfTimeError: when the deadline has passed; a checkpoint was written.
        """
        if self._finished():
            return self.log
        self._resume()
        saved = time.monotonic()
        for step in range(self.step, self.stage.steps):
            self._train_step(compute, step)
            due = time.monotonic() - saved > self.settings.checkpoint_seconds
            if self.settings.checkpoint_steps is not None:
                due = self.step % self.settings.checkpoint_steps == 0
            late = time.monotonic() > self.deadline.end
            if due or late or len(self._waiting) >= LOOKED_AT_EVERY:
                self._look()
            if (due or late) and self.step < self.stage.steps:
                self._save()
                saved = time.monotonic()
            if late and self.step < self.stage.steps:
                raise OutOfTimeError(f"{self.settings.folder.name} after {self.step} of {self.stage.steps} steps")
        self._look()
        self._finish()
        return self.log

    def _train_step(self, compute: Step, step: int) -> None:
        share = rate_at(step, self.stage.steps, self.stage.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        losses, gradients, ids = compute(step)
        for value, gradient in zip(self.trained.values(), gradients, strict=True):
            value.grad = gradient
        norm = nn.utils.clip_grad_norm_(list(self.trained.values()), self.stage.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        kept = {name: loss.detach().clone() for name, loss in losses.items()}  # a graph writes over its own
        self._waiting.append((step, ids, kept, norm.detach()))
        self.step = step + 1

    def _look(self) -> None:
        """Logs the steps since the last look; raises ValueError for the first that is not finite."""
        if not self._waiting:
            return
        names = list(self._waiting[0][2])
        losses = torch.stack([torch.stack(list(entry[2].values())) for entry in self._waiting]).tolist()
        norms = torch.stack([entry[3] for entry in self._waiting]).tolist()
        for (step, ids, _, _), values, norm in zip(self._waiting, losses, norms, strict=True):
            if not (all(map(math.isfinite, values)) and math.isfinite(norm)):
                found = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
                raise ValueError(
                    f"The losses are {found} and the norm of the gradient {norm} in step {step + 1}, on the rows "
                    f"{', '.join(ids)}. Training stops; look at these rows, or lower the learning rates."
                )
        means = {
            name: sum(column) / len(column) for name, column in zip(names, zip(*losses, strict=True), strict=True)
        }
        entry: dict[str, Any] = {"step": self.step, **means, "gradient": sum(norms) / len(norms)}
        if self.measures is not None:
            entry.update(self.measures(self.step))
        self._waiting = []
        self.log.append(entry)
        if self.on_log is not None:
            self.on_log(entry)

    def _save(self) -> None:
        tensors = {f"weight.{name}": value.detach().cpu().contiguous() for name, value in self.trained.items()}
        for name, value in self.trained.items():
            for moment, state in self.optimizer.state[value].items():
                tensors[f"{moment}.{name}"] = state.cpu().contiguous()
        values = {"step": self.step, "log": self.log, "identity": self.settings.identity}
        metadata = {"run": json.dumps(values)}
        write_whole(self.settings.folder / STATE, partial(save_tensors, tensors=tensors, metadata=metadata))

    def _resume(self) -> None:
        path = self.settings.folder / STATE
        if not path.is_file():
            return
        try:
            with safe_open(path, "pt") as file:
                values = json.loads(file.metadata()["run"])
            tensors = load_file(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}. Remove it to start the run anew.") from error
        check_identity(values["identity"], self.settings.identity, path)
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(tensors[f"weight.{name}"])
                state = {
                    moment: tensors[f"{moment}.{name}"].to(self.device)
                    for moment in MOMENTS
                    if f"{moment}.{name}" in tensors
                }
                if self.device.type == "cpu":
                    state["step"] = state["step"].cpu()
                self.optimizer.state[value] = state
        self.step, self.log = values["step"], values["log"]

    def _finish(self) -> None:
        folder = self.settings.folder
        for file, values in self.results.items():
            tensors = {name: value.detach().cpu().contiguous() for name, value in values.items()}
            write_whole(folder / file, partial(save_tensors, tensors=tensors))
        write_json(folder / RESULT, {"identity": self.settings.identity, "steps": self.step, "log": self.log})
        (folder / STATE).unlink(missing_ok=True)

    def _finished(self) -> bool:
        path = self.settings.folder / RESULT
        if not path.is_file():
            return False
        values = json.loads(path.read_text())
        check_identity(values["identity"], self.settings.identity, path)
        with torch.no_grad():
            for file, parameters in self.results.items():
                tensors = load_file(self.settings.folder / file)
                for name, value in parameters.items():
                    value.copy_(tensors[name])
        self.step, self.log = values["steps"], values["log"]
        return True


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})


def check_identity(found: dict, wanted: dict, path: Path) -> None:
    """Raises ValueError, naming the differences, unless a file is of the run that is wanted."""
    remedy = "Choose another folder, or remove this run."
    check_same_run(found, wanted, f"{path} is of another recipe", remedy)
