"""VEGA-3D for the Hugging Face stack: a frozen video diffusion model fused with a vision-language model.

`import vega3d` imports neither torch nor transformers. A public class is imported when it is first asked for.
transformers' Auto classes know the model's classes by name (`_announce`), and import them from here when needed.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.hub.load import load
    from vega3d.modeling.actions_vega3d import VegaActionOutput, VegaForActionPrediction
    from vega3d.modeling.configuration_vega3d import VegaConfig, VegaGeneratorConfig
    from vega3d.modeling.generator_vega3d import VegaGenerator
    from vega3d.modeling.grounding_vega3d import Grounding, VegaForVisualGrounding, VegaGroundingOutput
    from vega3d.modeling.modeling_vega3d import (
        VegaCausalLMOutput,
        VegaEncoderOutput,
        VegaForSpatialReasoning,
        VegaModel,
        VegaModelOutput,
    )
    from vega3d.processing.processing_vega3d import VegaProcessor

__version__ = "0.1.0"
__all__ = [
    "Grounding",
    "VegaActionOutput",
    "VegaCausalLMOutput",
    "VegaConfig",
    "VegaEncoderOutput",
    "VegaForActionPrediction",
    "VegaForSpatialReasoning",
    "VegaForVisualGrounding",
    "VegaGenerator",
    "VegaGeneratorConfig",
    "VegaGroundingOutput",
    "VegaModel",
    "VegaModelOutput",
    "VegaProcessor",
    "load",
]
HOMES = {  # public name: the module that defines it
    "Grounding": "vega3d.modeling.grounding_vega3d",
    "VegaActionOutput": "vega3d.modeling.actions_vega3d",
    "VegaCausalLMOutput": "vega3d.modeling.modeling_vega3d",
    "VegaConfig": "vega3d.modeling.configuration_vega3d",
    "VegaEncoderOutput": "vega3d.modeling.modeling_vega3d",
    "VegaForActionPrediction": "vega3d.modeling.actions_vega3d",
    "VegaForSpatialReasoning": "vega3d.modeling.modeling_vega3d",
    "VegaForVisualGrounding": "vega3d.modeling.grounding_vega3d",
    "VegaGenerator": "vega3d.modeling.generator_vega3d",
    "VegaGeneratorConfig": "vega3d.modeling.configuration_vega3d",
    "VegaGroundingOutput": "vega3d.modeling.grounding_vega3d",
    "VegaModel": "vega3d.modeling.modeling_vega3d",
    "VegaModelOutput": "vega3d.modeling.modeling_vega3d",
    "VegaProcessor": "vega3d.processing.processing_vega3d",
    "load": "vega3d.hub.load",
}
AUTO_TABLES: dict[str, dict[str, Any]] = {  # module of transformers: its tables, and which class of ours they name
    "transformers.models.auto.configuration_auto": {"CONFIG_MAPPING": "VegaConfig"},
    "transformers.models.auto.processing_auto": {"PROCESSOR_MAPPING": "VegaProcessor"},
    "transformers.models.auto.modeling_auto": {
        # A config's `architectures` decide.
        "MODEL_MAPPING": ("VegaForSpatialReasoning", "VegaForVisualGrounding", "VegaForActionPrediction"),
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING": "VegaForSpatialReasoning",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING": "VegaForSpatialReasoning",
        "MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING": "VegaForVisualGrounding",
    },
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _announce(module: ModuleType) -> None:
    """Enters the names of the model's classes in the tables of one of transformers' Auto modules."""
    for table, name in AUTO_TABLES[module.__name__].items():
        vars(module)[f"{table}_NAMES"]["vega3d"] = name
        if table != "CONFIG_MAPPING":  # the others look a model up by the name of its config's class
            vars(module)[table]._reverse_config_mapping["VegaConfig"] = "vega3d"


class _Announcer(MetaPathFinder):
    """Announces the model as soon as one of transformers' Auto modules is loaded; others find the module."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in AUTO_TABLES:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_announce(module: ModuleType) -> None:
                execute(module)
                _announce(module)

            spec.loader.exec_module = execute_and_announce  # type: ignore[method-assign]
        return spec


sys.modules["transformers.models.vega3d"] = sys.modules[__name__]  # where the tables look for a model's classes
sys.meta_path.insert(0, _Announcer())
for _name in AUTO_TABLES.keys() & sys.modules.keys():
    _announce(sys.modules[_name])
