"""Where does the gate open? Maps of trained arms over frames of validation rooms, and their figures by object."""

from pathlib import Path

import numpy as np
import torch

from research.tiny.study.data import SplitData
from research.tiny.study.stages import Streams, Tools, fused_rows
from vega3d.inference.gate_figure import save_gate_figure
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.rooms.dataset.dataset_files import FPS


@torch.no_grad()
def gate_maps(model: VegaForSpatialReasoning, streams: Streams, visuals: list[int], tools: Tools) -> np.ndarray | None:
    """float32[V, t, h, w] in (0, 1), where 1 keeps the semantic token; None for an arm without a gate."""
    with tools.autocast():
        _, gate = fused_rows(model, streams[visuals], tools)
    if gate is None or gate.shape[-1] != 1:
        return None
    return gate.float().cpu().numpy().reshape(len(visuals), *tools.stream.prefix.grid)


def draw_gates(
    model: VegaForSpatialReasoning,
    streams: Streams,
    data: SplitData,
    tools: Tools,
    folder: Path,
    name: str,
    count: int,
) -> dict[str, float] | None:
    """Pictures `{name}-{n}.png` of the first clips without marks.

    Args:
        model: of a trained arm.
        streams: of the split.
        data: of the split.
        tools: of the experiment.
        folder: is made.
        name: of the arm.
        count: pictures.

    Returns:
        Mean and spread of the gate over the tokens of all clips without marks, and the residual scale; None for an arm
        without a gate.
    """
    plain = [number for number, visual in enumerate(data.visuals) if not visual.marks]
    maps = [gate_maps(model, streams, [number], tools) for number in plain]
    found = [entry[0] for entry in maps if entry is not None]
    if not found:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for place, gates in enumerate(found[:count]):
        frames = data.frames_of([plain[place]])[0]
        seconds = [number / FPS for number in range(len(frames))]
        save_gate_figure(folder / f"{name}-{place}.png", frames, gates, seconds)
    scale = [float(value) for key, value in model.named_parameters() if key.endswith(".residual_scale")]
    tokens = np.concatenate([gates.ravel() for gates in found])
    values = {"mean": float(tokens.mean()), "standard_deviation": float(tokens.std())}
    return {**values, "residual_scale": scale[0]} if scale else values
