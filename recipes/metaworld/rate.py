"""How fast policies answer: queries and actions a second, of all of them in one run, round by round."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vega3d import VegaForActionPrediction
from vega3d.hub.load import load_task
from vega3d.inference.acting import check_robot
from vega3d.inference.compiling import compile_layers
from vega3d.inference.graphs import graph_queries
from vega3d.robotics.metaworld import ACTION_NAMES, INSTRUCTIONS, STATE_NAMES, VIEWS
from vega3d.runs import versions
from vega3d.tables import aligned

FORMAT = "vega3d-rates-1"
WARM_UP = 3  # queries of each policy before those that are timed
PROCESSORS = Path("/proc/cpuinfo")


def measure_rates(
    policies: Sequence[str],
    device: str | None,
    size: int,
    rounds: int,
    on_progress: Callable[[int], None],
    is_compiled: bool = False,
    is_graph: bool = False,
) -> dict[str, Any]:
    """Times of queries: each round asks every policy once, so that what else the machine does slows all alike.

    The images are random, for the time does not depend on what they show. The processor's work is within the times,
    rendering is not.

    `size` is the side of the images [px]; `on_progress` is called with 1 after each round; `is_compiled` has
    `compile_layers` before the first query, which is not timed, and `is_graph` then has `graph_queries`. Raises
    ValueError for a model that is no policy of the robot, and as they do.
    """
    loaded = [load_task(VegaForActionPrediction, name, device=device) for name in policies]
    for name, (model, _) in zip(policies, loaded, strict=True):
        check_robot(model.config, name, tuple(VIEWS), (len(STATE_NAMES), len(ACTION_NAMES)))
        if is_compiled:
            compile_layers(model)
        if is_graph:
            graph_queries(model)
    random = np.random.default_rng(0)
    seconds = np.zeros((WARM_UP + rounds, len(loaded)))
    for number in range(len(seconds)):
        for place, (model, processor) in enumerate(loaded):
            seconds[number, place] = query_seconds(model, processor, size, random)
        if number >= WARM_UP:
            on_progress(1)
    device = loaded[0][0].device
    return {
        "format": FORMAT,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "size": size,
        "rounds": rounds,
        "compiled": is_compiled,
        "graph": is_graph,
        "versions": versions("torch", "transformers"),
        "policies": [
            rate_of(name, model.config, column)
            for name, (model, _), column in zip(policies, loaded, seconds[WARM_UP:].T, strict=True)
        ],
    }


def query_seconds(model: VegaForActionPrediction, processor: Any, size: int, random: np.random.Generator) -> float:
    """How long a policy takes for a chunk of actions."""
    config = model.config
    shape = (size, size, 3) if config.action_frames == 1 else (config.action_frames, size, size, 3)
    images = {view: random.integers(0, 256, shape, np.uint8) for view in config.action_cameras}
    instruction, state = next(iter(INSTRUCTIONS.values())), np.array(config.action_statistics["state"]["mean"])
    begin = time.perf_counter()
    model.predict_actions(processor, images, instruction, state)  # on the CPU when it returns
    return time.perf_counter() - begin


def rate_of(name: str, config: Any, seconds: np.ndarray) -> dict[str, Any]:
    """Median and quartiles of the seconds of a query, float[n], and what a robot gets by them."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    return {
        "policy": name,
        "fusion": config.fusion,
        "seconds": median,
        "quartiles": [low, high],
        "queries_per_second": 1 / median,
        "chunk": config.action_chunk,
        "actions_per_second": config.action_chunk / median,
    }


def format_rates(found: dict[str, Any]) -> str:
    """A table of rates, one row a policy."""
    rows = [["policy", "fusion", "ms a query", "quartiles", "queries/s", "chunk", "actions/s"]]
    for one in found["policies"]:
        low, high = (f"{1000 * value:.1f}" for value in one["quartiles"])
        rates = [f"{one['queries_per_second']:.1f}", str(one["chunk"]), f"{one['actions_per_second']:.0f}"]
        rows.append([one["policy"], one["fusion"], f"{1000 * one['seconds']:.1f}", f"{low} to {high}", *rates])
    about = f"{found['device']}, {found['threads']} threads of the CPU, images of {found['size']} px"
    ways = {"compiled": ", layers compiled", "graph": ", queries as CUDA graphs"}
    chosen = "".join(words for name, words in ways.items() if found.get(name))  # absent in files of earlier versions
    return "\n".join([f"{about}{chosen}; medians of {found['rounds']} queries each", *aligned(rows)])


def processor_name() -> str:
    """The name of this machine's processor, with its number of cores."""
    lines = PROCESSORS.read_text().splitlines() if PROCESSORS.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{next(iter(names), platform.processor() or platform.machine())}, {os.cpu_count()} cores"
