"""Options of `from_pretrained` that a fused model cannot follow: each is refused with the reason and what to do."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

SUB_MODELS: dict[str, Any] = {
    "": None,
    "vlm_config": {"": None, "text_config": None, "vision_config": None},
    "generator_config": None,
}
NEEDS_DEVICE_MAP = ("max_memory", "offload_folder", "offload_buffers")
DISTRIBUTED = "The model is loaded whole on each process. Leave it out; device_map spreads layers over devices."
NO_PICKLES = "Weights are read from safetensors alone, nothing is unpickled. Leave it out, and convert other files."
OLD = "transformers does not read it any more. Leave it out."
REFUSED: dict[str, str] = {  # if they are given, and are neither None nor False
    "tp_plan": DISTRIBUTED,
    "tp_size": DISTRIBUTED,
    "device_mesh": DISTRIBUTED,
    "distributed_config": DISTRIBUTED,
    "gguf_file": NO_PICKLES,
    "from_tf": NO_PICKLES,
    "from_flax": NO_PICKLES,
    "mirror": OLD,
    "proxies": "transformers does not read it any more. Set HTTPS_PROXY in the environment.",
    "offload_state_dict": OLD,
    "load_in_4bit": "Give quantization_config=BitsAndBytesConfig(load_in_4bit=True).",
    "load_in_8bit": "Give quantization_config=BitsAndBytesConfig(load_in_8bit=True).",
}
ONLY_TRUE = {  # what is done anyway
    "use_safetensors": NO_PICKLES,
    "weights_only": NO_PICKLES,
    "low_cpu_mem_usage": "Weights are always put in place one by one. Leave it out.",
}


def check_loading_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option of `from_pretrained` that would be passed over."""
    for name, remedy in REFUSED.items():
        if options.get(name) is not None and options[name] is not False:
            raise ValueError(f"from_pretrained has {name}={shown(options[name])}. {remedy}")
    for name, remedy in ONLY_TRUE.items():
        if options.get(name) is False:
            raise ValueError(f"from_pretrained has {name}=False. {remedy}")
    if options.get("state_dict") is not None:
        raise ValueError(
            "from_pretrained has a state_dict, but the generator's weights come from files. Load the checkpoint, then "
            "call load_state_dict."
        )
    for name in ("dtype", "torch_dtype"):
        if isinstance(options.get(name), Mapping):
            raise ValueError(
                f"from_pretrained has {name}={shown(options[name])}, but its parts have one dtype (those of the "
                "generator that need it stay float32). Give one."
            )
    for name in NEEDS_DEVICE_MAP:
        if options.get(name) and options.get("device_map") is None:
            raise ValueError(f"from_pretrained has {name}={shown(options[name])}, but only device_map reads it.")
    if isinstance(options.get("attn_implementation"), Mapping):
        check_sub_models(options["attn_implementation"], SUB_MODELS)


def check_sub_models(given: Mapping, known: Mapping, place: str = "") -> None:
    """Raises ValueError for the name of a sub-model that is none, which transformers would pass over."""
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"attn_implementation{place} names {name!r}, which is no sub-model. It may name {list(known)}."
            )
        if isinstance(value, Mapping):
            check_sub_models(value, known[name] or {}, f"{place}[{name!r}]")


@contextlib.contextmanager
def loading(checkpoint: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Turns what transformers raises for bad files and bad options into a ValueError that says what to do."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"The weights in {checkpoint} cannot be read: {error}. Copy the checkpoint again.") from error
    except StrictDataclassError as error:
        raise ValueError(f"{checkpoint} has no such config: {' '.join(str(error).split())}") from error
    except TypeError as error:
        named = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if named is None or named[1] not in options:
            raise
        raise ValueError(
            f"from_pretrained has {named[1]}={shown(options[named[1]])}, which is neither an option of transformers "
            "nor a field of VegaConfig. Leave it out."
        ) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"Weights in {checkpoint} have other shapes than the config asks for. Leave out fields that change them, "
            "or give ignore_mismatched_sizes=True to begin those weights anew."
        ) from error


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
