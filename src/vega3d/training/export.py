"""The model that a run leaves: a plain checkpoint with its processor, and the adapter beside it."""

from pathlib import Path
from typing import Any

from transformers import Trainer

from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.run_files import writing_into

ADAPTER = "adapter"


def save_result(trainer: Trainer, processor: VegaProcessor, output: Path, unquantised: Path | None = None) -> None:
    """Writes the whole model, with adapters merged into its weights, in the dtype that it was loaded in.

    `AutoModel.from_pretrained(output)` loads it. With adapters, `output/adapter` holds them (with the projector and
    the fusion, if they were trained) as PEFT loads them onto the model that the run started from.

    Args:
        trainer: after training.
        processor: of the model.
        output: folder.
        unquantised: folder of the model that the run started from, if it was trained in 4 bits: adapters are merged
            into these weights, not into the rounded ones.

    Raises:
        OSError: if the folder cannot be written.
    """
    wrapped: Any = trainer.accelerator.unwrap_model(trainer.model)
    with writing_into(output):
        if not isinstance(wrapped, VegaForSpatialReasoning):
            wrapped.save_pretrained(output / ADAPTER)
        model = plain_model(wrapped, output, unquantised)
        model.save_pretrained(output)
        processor.save_pretrained(output)


def plain_model(wrapped: Any, output: Path, unquantised: Path | None) -> VegaForSpatialReasoning:
    if unquantised is not None:
        from peft import PeftModel

        base = VegaForSpatialReasoning.from_pretrained(unquantised, dtype="auto")
        return PeftModel.from_pretrained(base, output / ADAPTER).merge_and_unload()
    model = wrapped if isinstance(wrapped, VegaForSpatialReasoning) else wrapped.merge_and_unload()
    model.cast_weights(model.config.dtype)  # trained weights are float32 during the run
    return model
