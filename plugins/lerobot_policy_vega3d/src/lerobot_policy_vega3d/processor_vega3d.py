"""What LeRobot does before and after the policy: it renames, and moves to the device; nothing is scaled."""

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from .configuration_vega3d import Vega3dConfig

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]


def make_vega3d_pre_post_processors(config: Vega3dConfig, dataset_stats: dict | None = None) -> Pipelines:
    """LeRobot's default steps, which leave images, states and actions as they are: the policy has its statistics."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
