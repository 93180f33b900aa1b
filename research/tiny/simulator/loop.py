"""One loop for all stages: steps, moving average, log, checkpoints by steps and minutes, exact continuation."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from research.tiny.simulator.config import StageOptions
from research.tiny.simulator.graphs import graphed
from research.tiny.simulator.muon import OTHERS_RATE, Muon
from research.tiny.simulator.rooms import WalkId
from research.tiny.simulator.state import gather, restore, save_checkpoint

logger = logging.getLogger(__name__)


class StepInputs(NamedTuple):
    """
    Args:
        tensors: arguments of the module.
        walks: that they are of.
    """

    tensors: tuple[torch.Tensor, ...]
    walks: list[WalkId]


class Stage(Protocol):
    """What is trained: `module` holds the weights, and gives the loss of a step and tensors float[n] to add up."""

    @property
    def options(self) -> StageOptions: ...

    @property
    def module(self) -> nn.Module: ...

    def inputs(self, step: int) -> StepInputs:
        """What the module is given in a step, counted from 0; the same for the same step."""
        ...

    def figures(self, sums: dict[str, torch.Tensor], steps: int) -> dict[str, float]:
        """What is logged of the sums over so many steps."""
        ...

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Figures of the validation rooms, with the averaged weights in place; pictures go to the folder."""
        ...


class Pending(NamedTuple):
    step: int
    walks: list[WalkId]
    loss: torch.Tensor
    norm: torch.Tensor

    def check(self) -> None:
        """Raises ValueError unless loss and gradient are finite."""
        for what, value in (("loss", self.loss), ("norm of the gradient", self.norm)):
            if not math.isfinite(value.item()):
                told = ", ".join(str(walk) for walk in self.walks)
                raise ValueError(
                    f"The {what} is {value.item()} in step {self.step + 1}, on {told}. Training stops; look at these "
                    "walks, or lower the learning rate. The last checkpoint is of an earlier step."
                )


class Gradients(NamedTuple):
    """To be used before the next step, which may overwrite it.

    Args:
        loss: float[].
        sums: float[n], added up until they are logged.
        of: each parameter; None where it had no part.
    """

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    of: list[torch.Tensor | None]


def weight_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms, biases and tables of modulations do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        is_kernel = parameter.ndim > 1 and not name.endswith(("gamma", "scale_shift_table"))
        (decayed if is_kernel else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def make_optimizer(module: nn.Module, options: StageOptions, on_gpu: bool) -> torch.optim.Optimizer:
    """AdamW, or Muon for what decays and AdamW for the rest."""
    kernels, others = weight_groups(module, options.weight_decay)
    if options.optimizer == "muon":
        kernels["muon"] = True
        others["lr"] = OTHERS_RATE * options.learning_rate
        return Muon([kernels, others], lr=options.learning_rate, betas=(0.9, 0.99), fused=on_gpu)
    return torch.optim.AdamW([kernels, others], lr=options.learning_rate, betas=(0.9, 0.99), fused=on_gpu)


class Loop:
    """
    Args:
        stage: what is trained.
        accelerator: one process, or one of several.
        folder: of the run: `checkpoint-*`, `samples/`.
        on_step: called with the steps newly done and those of the whole run.
        on_log: called with each entry of the log.
    """

    def __init__(
        self,
        stage: Stage,
        accelerator: Accelerator,
        folder: Path,
        on_step: Callable[[int, int], None] | None = None,
        on_log: Callable[[dict], None] | None = None,
    ):
        options = stage.options
        self.stage, self.accelerator, self.folder, self.options = stage, accelerator, folder, options
        self.on_step, self.on_log = on_step or (lambda done, steps: None), on_log or (lambda entry: None)
        on_gpu = accelerator.device.type == "cuda"
        optimizer = make_optimizer(stage.module, options, on_gpu)
        self.wrapped, self.optimizer = accelerator.prepare(stage.module, optimizer)
        # Not prepared: accelerate would step it once for each process.
        self.schedule = get_cosine_schedule_with_warmup(
            self.optimizer, math.ceil(options.warmup * options.steps), options.steps
        )
        self.average = EMAModel(
            stage.module.parameters(), decay=options.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
        )
        self.parameters = list(stage.module.parameters())
        self.gradients: Callable[..., Gradients] = self._gradients
        if on_gpu and options.cuda_graphs and accelerator.num_processes == 1:
            self.gradients = graphed(self._gradients, accelerator.device)
        self.step, self.log, self.seconds = 0, [], 0.0  # type: int, list[dict[str, Any]], float
        self.saved_at: int | None = None
        self._pending: Pending | None = None
        self._forget_sums()

    def load(self, checkpoint: Path) -> None:
        facts = restore(checkpoint, self.stage.module, self.optimizer, self.average)
        self.step, self.log, self.seconds = facts["step"], facts["log"], facts["seconds"]
        self.schedule.load_state_dict(facts["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        self.saved_at = self.step

    def run(self, deadline: float | None = None) -> bool:
        """
        Args:
            deadline: of `time.monotonic()`; when it is passed, a checkpoint is written and the loop ends.

        Returns:
            Whether all steps are done.

        Raises:
            ValueError: for a loss or gradient that is not finite, naming step and walks.
        """
        saved, began, before = time.monotonic(), time.monotonic(), self.seconds
        self.wrapped.train()
        while self.step < self.options.steps:
            self._one_step()
            self.seconds = before + time.monotonic() - began
            is_last = self.step == self.options.steps
            if self.step % self.options.logging_steps and not is_last:
                continue
            self._note(is_last)
            is_late = self._agreed(deadline is not None and time.monotonic() >= deadline)
            is_due = self._agreed(time.monotonic() - saved >= 60 * self.options.save_minutes)
            if is_last or is_late or is_due or self.step % self.options.save_steps == 0:
                self.save()
                saved = time.monotonic()
            if is_late and not is_last:
                return False
        return True

    def _gradients(self, *inputs: torch.Tensor) -> "Gradients":
        for parameter in self.parameters:
            parameter.grad = None
        loss, sums = self.wrapped(*inputs)
        self.accelerator.backward(loss)
        sums = {name: value.detach() for name, value in sums.items()}
        return Gradients(loss.detach(), sums, [parameter.grad for parameter in self.parameters])

    def _one_step(self) -> None:
        began = time.monotonic()
        inputs = self.stage.inputs(self.step)
        self._waited += time.monotonic() - began
        loss, sums, gradients = self.gradients(*inputs.tensors)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.options.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.average.step(self.parameters)
        # The step before is looked at, so that the card need not wait for the answer.
        if self._pending is not None:
            self._pending.check()
        self._pending = Pending(self.step, inputs.walks, loss.clone(), norm.detach())
        for name, value in {"loss": loss, "gradient_norm": norm.detach(), **sums}.items():
            self._sums[name] = self._sums[name] + value
        self._steps += 1
        self.step += 1
        self.on_step(1, self.options.steps)

    def _forget_sums(self) -> None:
        self._sums: dict[str, Any] = defaultdict(float)
        self._steps, self._waited, self._since = 0, 0.0, time.monotonic()

    def _note(self, is_last: bool) -> None:
        """An entry of the log; with figures of the validation rooms when they are due."""
        assert self._pending is not None
        self._pending.check()
        self._pending = None
        sums = {name: self.accelerator.reduce(value, "mean") for name, value in self._sums.items()}
        taken = max(time.monotonic() - self._since, 1e-9)
        entry: dict[str, Any] = {
            "step": self.step,
            "loss": sums["loss"].item() / self._steps,
            "gradient_norm": sums["gradient_norm"].item() / self._steps,
            "learning_rate": self.schedule.get_last_lr()[0],
            **self.stage.figures(sums, self._steps),
            "steps_per_second": self._steps / taken,
            "clips_per_second": self._steps * self.options.batch_size * self.accelerator.num_processes / taken,
            "waiting_for_clips": self._waited / taken,
        }
        if is_last or self.step % self.options.validation_steps < self._steps:
            with self.averaged(), torch.no_grad(), self.accelerator.autocast():
                entry |= self.stage.validate(self.step, self.folder / "samples")
        self.log.append(entry)
        self.on_log({"steps": self.options.steps, **entry})
        self._forget_sums()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The moving average in place of the weights."""
        self.average.store(self.parameters)
        self.average.copy_to(self.parameters)
        self.wrapped.eval()
        try:
            yield
        finally:
            self.average.restore(self.parameters)
            self.wrapped.train()

    def _agreed(self, here: bool) -> bool:
        """Whether any process says so."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def save(self) -> None:
        if self.saved_at == self.step:
            return
        if self.accelerator.is_main_process:
            facts = {
                "step": self.step,
                "seconds": self.seconds,
                "average_steps": self.average.optimization_step,
                "schedule": self.schedule.state_dict(),
                "log": self.log,
            }
            save_checkpoint(self.folder, self.step, gather(self.stage.module, self.optimizer, self.average), facts)
        self.accelerator.wait_for_everyone()
        self.saved_at = self.step
