"""What the fusion does while it is trained, for the log: a gate that shuts is to be seen at once."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from vega3d.modeling.fusion_vega3d import Fusion, TokenGatedResidualFusion

SHUT = 0.99  # mean gate above which generative tokens no longer count
SILENT = 0.01  # size of r below which they do not, either

logger = logging.getLogger(__name__)


class FusionWatch:
    """Sees the last batch that went through a fusion, while it is entered.

    Args:
        fusion: of the model, or None for one without a generator, of which there is nothing to see.
    """

    def __init__(self, fusion: Fusion | None):
        self.fusion = fusion
        self.last: tuple[torch.Tensor, ...] | None = None
        self.has_warned = False

    def __enter__(self) -> "FusionWatch":
        self.hook = None if self.fusion is None else self.fusion.register_forward_hook(self._see)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.hook is not None:
            self.hook.remove()
        self.last = None

    def _see(self, _: Fusion, streams: tuple, fused: tuple[torch.Tensor, torch.Tensor | None]) -> None:
        seen = (*streams[:2], *fused)
        self.last = tuple(value.detach() for value in seen if value is not None)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """
        Returns:
            `semantic_rms` and `generative_rms` of the tokens; `change`, root mean square of what the fusion changes
            over that of the semantic tokens; the mean `gate`, 1 for shut, and `residual_scale`, of fusions that have
            them.
        """
        if self.fusion is None or self.last is None:
            return {}
        semantic, generative, fused, *gate = self.last
        sizes = [rms(semantic), rms(generative), rms(fused.float() - semantic.float()) / rms(semantic)]
        found = dict(zip(("semantic_rms", "generative_rms", "change"), sizes, strict=True))
        if gate:
            found["gate"] = gate[0].float().mean().item()
            self._warn(found["gate"])
        if isinstance(self.fusion, TokenGatedResidualFusion):
            found["residual_scale"] = self.fusion.residual_scale.item()
        return found

    def _warn(self, gate: float) -> None:
        if gate > SHUT and not self.has_warned:
            logger.warning(
                "The gate is shut: its mean is %.5f, so that the model no longer hears the generator, and gradients "
                "no longer open it. Lower the learning rates of projector and gate.",
                gate,
            )
            self.has_warned = True


def is_void(entry: Mapping[str, float]) -> bool:
    """Whether a line of the log shows a fusion that lets next to nothing through: a shut gate, or an r of 0."""
    return entry.get("gate", 0.0) > SHUT or abs(entry.get("residual_scale", 1.0)) < SILENT


def rms(values: torch.Tensor) -> float:
    return values.float().pow(2).mean().sqrt().item()
