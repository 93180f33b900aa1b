"""VEGA-3D for the Hugging Face stack: a frozen video diffusion model fused with a vision-language model.

`import vega3d` imports neither torch nor transformers. A public class is imported when it is first asked for, and
transformers' Auto classes know the model by name (`_announce`), so that `AutoModel.from_pretrained` works after it.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vega3d.hub.load import load
    from vega3d.modeling.configuration_vega3d import VegaConfig, VegaGeneratorConfig
    from vega3d.modeling.generator_vega3d import VegaGenerator
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
    "VegaCausalLMOutput",
    "VegaConfig",
    "VegaEncoderOutput",
    "VegaForSpatialReasoning",
    "VegaGenerator",
    "VegaGeneratorConfig",
    "VegaModel",
    "VegaModelOutput",
    "VegaProcessor",
    "load",
]
HOMES = {  # public name: the module that defines it
    "VegaCausalLMOutput": "vega3d.modeling.modeling_vega3d",
    "VegaConfig": "vega3d.modeling.configuration_vega3d",
    "VegaEncoderOutput": "vega3d.modeling.modeling_vega3d",
    "VegaForSpatialReasoning": "vega3d.modeling.modeling_vega3d",
    "VegaGenerator": "vega3d.modeling.generator_vega3d",
    "VegaGeneratorConfig": "vega3d.modeling.configuration_vega3d",
    "VegaModel": "vega3d.modeling.modeling_vega3d",
    "VegaModelOutput": "vega3d.modeling.modeling_vega3d",
    "VegaProcessor": "vega3d.processing.processing_vega3d",
    "load": "vega3d.hub.load",
}
AUTO_CONFIGS = "transformers.models.auto.configuration_auto"


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(HOMES[name]), name)
    _register()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Registers the classes with transformers' Auto classes, once the first of them is imported."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )

    from vega3d.modeling.configuration_vega3d import VegaConfig
    from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
    from vega3d.processing.processing_vega3d import VegaProcessor

    AutoConfig.register(VegaConfig.model_type, VegaConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(VegaConfig, VegaForSpatialReasoning, exist_ok=True)
    AutoProcessor.register(VegaConfig, VegaProcessor, exist_ok=True)


def _announce(config_names: dict[str, str]) -> None:
    """Adds the names of the config and the processor to transformers' own tables, which import a class when needed.

    Every Auto class reads a checkpoint's config or processor first, so these two entries suffice: they lead to this
    package, whose `__getattr__` registers the rest.
    """
    from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES

    config_names["vega3d"] = "VegaConfig"
    PROCESSOR_MAPPING_NAMES["vega3d"] = "VegaProcessor"
    sys.modules["transformers.models.vega3d"] = sys.modules[__name__]  # where the tables look for a model's classes


class _BeforeAutoConfigs(MetaPathFinder):
    """Announces the model just before transformers reads its tables; it finds no module itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == AUTO_CONFIGS:
            sys.meta_path.remove(self)
            from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

            _announce(CONFIG_MAPPING_NAMES)


if AUTO_CONFIGS in sys.modules:
    _announce(sys.modules[AUTO_CONFIGS].CONFIG_MAPPING_NAMES)
else:
    sys.meta_path.insert(0, _BeforeAutoConfigs())
