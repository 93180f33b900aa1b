"""What is trained, chosen by words, and with which learning rate. Checking the words needs no torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from vega3d.extras import optional_module

if TYPE_CHECKING:
    from torch import nn

    from vega3d.modeling.modeling_vega3d import VegaTaskModel

PARTS = {  # in the order of the table in docs/training.md: what each word means
    "gate": "the fusion",
    "projector": "the projector of the generator's features",
    "llm": "the language model, with its embeddings and head",
    "llm-lora": "low-rank adapters on the language model's linear layers",
    "vision": "the VLM's vision tower, with its merger",
    "ground": "the heads of a model for grounding",
    "act": "the head of a policy, with the token of the state and the queries of the actions",
}
LEARNING_RATES = {
    "gate": 1e-3,
    "projector": 1e-4,
    "llm": 1e-5,
    "llm-lora": 1e-4,
    "vision": 2e-6,
    "ground": 1e-4,
    "act": 1e-4,
}
RESIDUAL_SCALE_RATE = 1e-2
PREFIXES = {
    "gate": "model.fusion.",
    "projector": "model.projector.",
    "vision": "model.vlm.model.visual.",
    "ground": "grounding_head.",
    "act": "action_head.",
}
LANGUAGE_PREFIXES = ("model.vlm.model.language_model.", "model.vlm.lm_head.")
GENERATOR_PREFIX = "model.generator."
LORA_TARGETS = r".*\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
WRAPPERS = re.compile(r"^base_model\.model\.|(?<=\.)(modules_to_save\.[^.]+|original_module|base_layer)\.")


def check_parts(tune: Sequence[str]) -> tuple[str, ...]:
    """The parts to tune; raises ValueError for an unknown one, none, one twice, or `llm` together with `llm-lora`."""
    for name in tune:
        if name not in PARTS:
            listed = "; ".join(f"{part} ({meaning})" for part, meaning in PARTS.items())
            raise ValueError(f"There is no part {name!r} to tune. Parts are {listed}.")
    if not tune or len(set(tune)) < len(tune):
        raise ValueError(f"tune is {list(tune)}, but must name at least one part of {list(PARTS)}, each once.")
    if {"llm", "llm-lora"} <= set(tune):
        raise ValueError("tune names llm and llm-lora: adapters on weights that move themselves. Choose one of them.")
    return tuple(tune)


def parameter_part(name: str) -> str | None:
    """The part that a parameter belongs to, by its name in the model or PEFT's wrapper; None for the generator."""
    plain = WRAPPERS.sub("", WRAPPERS.sub("", name))
    for part, prefix in PREFIXES.items():
        if plain.startswith(prefix):
            return part
    if plain.startswith(LANGUAGE_PREFIXES):
        return "llm-lora" if ".lora_" in plain else "llm"
    if plain.startswith(GENERATOR_PREFIX):
        return None
    raise ValueError(f"The parameter {name} belongs to no part of the model that is known to be trained or frozen.")


def choose_parts(
    model: "VegaTaskModel",
    tune: Sequence[str],
    lora_rank: int = 16,
    lora_alpha: float = 32.0,
    lora_dropout: float = 0.0,
    lora_targets: str = LORA_TARGETS,
    seed: int = 0,
) -> "nn.Module":
    """Freezes everything but the parts named.

    Args:
        model: is changed in place; with `llm-lora` it is wrapped.
        tune: names of `PARTS`.
        lora_rank: rank of the adapters, whose scale is `lora_alpha` / `lora_rank`.
        lora_dropout: share of an adapter's inputs that are set to 0 at random.
        lora_targets: regular expression that the full names of the layers with adapters match.
        seed: of the adapters' first weights; the global random state stays.

    Returns:
        The model, or PEFT's wrapper around it. Whole parts named beside `llm-lora`, such as the projector, are saved
        with the adapter (`modules_to_save`).

    Raises:
        ValueError: as `check_parts`; if a part has no parameters; if an adapter would sit outside the language model.
    """
    tune = check_parts(tune)
    present = {parameter_part(name) for name, _ in model.named_parameters()}
    for part in tune:
        if part != "llm-lora" and part not in present:
            raise ValueError(
                f"The part {part!r} has no parameters in this model (fusion={model.config.fusion!r}, "
                f"projector={model.config.projector!r}). Leave it out of tune."
            )
    model.requires_grad_(False)
    if "llm-lora" in tune:
        check_targets(model, lora_targets)
        import torch

        peft = optional_module("peft")
        adapters = peft.LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=lora_targets,
            modules_to_save=[prefix.removesuffix(".") for part, prefix in PREFIXES.items() if part in tune] or None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return peft.get_peft_model(model, adapters)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_part(name) in tune)
    return model


def compiled_targets(targets: str) -> re.Pattern[str]:
    """Raises ValueError if `lora_targets` is no regular expression."""
    try:
        return re.compile(targets)
    except re.error as error:
        raise ValueError(f"lora_targets {targets!r} is no regular expression: {error}") from error


def check_targets(model: "nn.Module", targets: str) -> None:
    """Raises ValueError if the expression is none, matches nothing, or matches a layer outside the language model."""
    pattern = compiled_targets(targets)
    hit = [name for name, module in model.named_modules() if name and pattern.fullmatch(name)]
    for name in hit:
        if not f"{name}.".startswith(LANGUAGE_PREFIXES[0]):
            is_frozen = name.startswith(GENERATOR_PREFIX)
            owner = "the frozen generator" if is_frozen else "a part outside the language model"
            raise ValueError(f"lora_targets {targets!r} would put an adapter on {name}, which is {owner}. Narrow it.")
    if not hit:
        raise ValueError(f"lora_targets {targets!r} matches no layer; names are such as {LORA_TARGETS!r} matches.")


def learning_rates(tune: Iterable[str], given: Mapping[str, float]) -> dict[str, float]:
    """The rate of each part, the defaults where none is given; raises ValueError for a rate that cannot be used."""
    tune = tuple(tune)
    for part, rate in given.items():
        if part not in tune:
            raise ValueError(f"learning_rates names {part!r}, which is not among the parts tuned: {list(tune)}.")
        if not rate > 0:
            raise ValueError(f"The learning rate of {part!r} is {rate}, but must be above 0.")
    return {part: given.get(part, LEARNING_RATES[part]) for part in tune}


def parameter_groups(
    model: "nn.Module",
    rates: Mapping[str, float],
    residual_scale_rate: float,
    weight_decay: float,
    decayed: Iterable[str],
) -> list[dict]:
    """Groups of an optimizer: for each part its matrices with decay, the rest without, and r by itself.

    Args:
        model: with `requires_grad` set by `choose_parts`.
        rates: learning rate of each part that is trained.
        residual_scale_rate: learning rate of r, which has no decay: at the rate of the gate it would hardly move.
        weight_decay: of the matrices among `decayed`; all other parameters have none.
        decayed: names of the parameters with decay (`Trainer.get_decay_parameter_names`: no norms, no biases).
    """
    decayed = set(decayed)
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = parameter_part(name)
        if part is None or part not in rates:
            raise ValueError(f"{name} is trained, but there is no learning rate for the part {part!r}.")
        if name.endswith(".residual_scale"):
            key: str = "residual_scale"
            group = {"lr": residual_scale_rate, "weight_decay": 0.0}
        else:
            decays = name in decayed and parameter.ndim > 1
            key = part if decays else f"{part}, no decay"
            group = {"lr": rates[part], "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault(key, {"name": key, "params": [], **group})["params"].append(parameter)
    return list(groups.values())


def trained_counts(model: "nn.Module") -> dict[str, int]:
    """Number of trained parameters of each part."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = str(parameter_part(name))
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
