"""Steps of an experiment: commands with a log each, as many at a time as there are cards, continued by the same call.

A step starts as soon as those that it needs are done and a card is free. Each goes on by itself where it was stopped
or killed.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.2


@dataclass
class Step:
    """One command of `python -m`, what must be done before it, and whether it needs a card for itself."""

    name: str
    command: list[str]
    needs: list[str] = field(default_factory=list)
    on_card: bool = False


class Runner:
    """Steps in their order, as many at a time as there are places; one that needs none runs beside them, alone.

    A step without a card of its own sees the cards that are free when it starts, so that it does not slow a training.

    Args:
        steps: each needs those alone that come before it; one without a command is done already.
        cards: GPUs; on a CPU, steps that train at the same time.
        device: cpu or cuda.
        logs: folder of the logs, STEP.log.
        per_card: steps that share a card.
    """

    def __init__(self, steps: list[Step], cards: int, device: str, logs: Path, per_card: int = 1):
        self.waiting, self.cards, self.device, self.logs = list(steps), cards, device, logs
        self.places = cards * per_card
        self.done: set[str] = set()
        self.running: dict[str, tuple[subprocess.Popen, int | None]] = {}
        self.started = time.monotonic()

    def run(self) -> int:
        """The exit code of the first step that failed, whose neighbours are then stopped; 0 if all went well."""
        try:
            while self.waiting or self.running:
                self.start_what_can()
                time.sleep(POLL_SECONDS)
                failed = self.collect()
                if failed:
                    return failed
            return 0
        finally:
            for process, _ in self.running.values():
                process.send_signal(signal.SIGINT)
            for process, _ in self.running.values():
                process.wait()

    def free_places(self) -> list[int]:
        """Numbers of places that no step has; place n is on card n modulo the number of cards."""
        taken = [place for _, place in self.running.values()]
        return [place for place in range(self.places) if place not in taken]

    def start_what_can(self) -> None:
        for step in list(self.waiting):
            place = next(iter(self.free_places()), None) if step.on_card else None
            is_other = any(place is None for _, place in self.running.values())
            if not self.done.issuperset(step.needs):
                continue
            if not step.command:
                self.waiting.remove(step)
                self.done.add(step.name)
            elif place is not None if step.on_card else not is_other:
                self.waiting.remove(step)
                self.start(step, place)

    def start(self, step: Step, place: int | None) -> None:
        environment = dict(os.environ)
        if self.device == "cuda":
            places = self.free_places() if place is None else [place]
            cards = sorted({place % self.cards for place in places})
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(self.cards)))).split(",")
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[card] for card in cards)
        command = [sys.executable, "-u", "-m", *step.command]
        self.tell(f"$ python -m {shlex.join(step.command)}   # {step.name}")
        with open(self.logs / f"{step.name}.log", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.running[step.name] = process, place

    def collect(self) -> int:
        for name, (process, _) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[name]
            self.tell(f"{name}: {'done' if code == 0 else f'exit code {code}'}")
            if code:
                print((self.logs / f"{name}.log").read_text(errors="replace")[-4000:], file=sys.stderr)
                return code
            self.done.add(name)
        return 0

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", flush=True)
