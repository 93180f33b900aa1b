"""What lmms-eval reads from the entry-point group `lmms_eval.models`: a manifest, which loads nothing."""

from typing import Any


def manifest() -> Any:
    """lmms-eval's manifest of the model `vega3d`: its name, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vega3d", chat_class_path="vega3d.hub.lmms_eval_model.LmmsEvalModel")
