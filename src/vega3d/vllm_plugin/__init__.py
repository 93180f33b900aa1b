"""The plug-in of vLLM: `vllm serve` finds it by its entry point, and knows fused checkpoints by it.

vLLM is imported by the modules beside this one alone, and these by vLLM alone, when it meets such a checkpoint.
"""

import logging
from importlib import metadata

TESTED = ((0, 32), (0, 34))  # versions (major, minor) of vLLM: from, and the first that is not tested
ARCHITECTURE = "VegaForSpatialReasoning"
MODEL = "vega3d.vllm_plugin.model:VegaForVllm"  # vLLM imports it in a process of its own to inspect it

logger = logging.getLogger(__name__)


def register() -> None:
    """Enters the model in vLLM's registry; vLLM calls it once or more in each of its processes.

    Raises MissingExtraError if vLLM is not installed.
    """
    from vega3d.extras import optional_module

    vllm = optional_module("vllm")
    warning = version_warning(vllm.__version__)
    if warning:
        logger.warning(warning)
    if ARCHITECTURE not in vllm.ModelRegistry.get_supported_archs():
        vllm.ModelRegistry.register_model(ARCHITECTURE, MODEL)


def version_warning(version: str) -> str | None:
    """What to say about a version of vLLM that this plug-in was not tested with; None of one that it was."""
    numbers = version.split(".")[:2]
    known = all(number.isdecimal() for number in numbers) and len(numbers) == 2
    if known and TESTED[0] <= tuple(map(int, numbers)) < TESTED[1]:
        return None
    low, high = (".".join(map(str, bound)) for bound in TESTED)
    return (
        f"vega3d {metadata.version('vega3d')} was tested with vLLM from {low} to below {high}, but this is {version}. "
        f"If it fails, run: pip install 'vllm>={low},<{high}'"
    )
