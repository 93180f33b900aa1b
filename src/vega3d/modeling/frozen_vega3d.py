"""What keeps a frozen module the same whatever surrounds it: autocast, inference mode, casts, offloaded weights."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Computes as if the module were alone: without gradients, autocast and inference mode, its weights in place.

    What is derived here may be kept, as it does not depend on who asked first: a training loop under autocast or an
    evaluation in inference mode, whose tensors could not be used elsewhere. Weights that accelerate offloads are
    loaded, all at once, for as long as this lasts.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for part in module.modules():
            if "_hf_hook" in part.__dict__ and has_offloaded_params(part):  # accelerate's own test takes far longer
                stack.enter_context(align_module_device(part))
        for device_type in {"cpu", *(tensor.device.type for tensor in tensors_of(module))}:
            if device_type == "meta":
                raise ValueError(
                    f"Weights of {type(module).__name__} are on the meta device, which holds no values. Load the "
                    "model with `from_pretrained(..., device_map=...)` rather than moving it there."
                )
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def dtypes_of(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in module.named_parameters()}


def restore_dtypes(module: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Gives parameters back the types they had, where someone set wider ones past `Module.to`.

    PEFT's `prepare_model_for_kbit_training` does: it casts all that is not quantised to float32, frozen or not. Raises
    ValueError if a parameter was set to a narrower type, which has lost digits.
    """
    for name, parameter in module.named_parameters():
        before = dtypes.get(name, parameter.dtype)  # adapters may have come, or given a parameter another name
        if parameter.dtype == before:
            continue
        if torch.promote_types(parameter.dtype, before) != parameter.dtype:
            raise ValueError(
                f"{name} of the frozen {type(module).__name__} was cast from {before} to {parameter.dtype} past `to`, "
                "and has lost digits. Use `model.to(dtype)`, or load the model in that dtype."
            )
        parameter.data = parameter.data.to(before)


def state_of(module: nn.Module) -> tuple:
    """Changes when a parameter or buffer of a module is cast, written to or replaced; says nothing about values."""
    return tuple(
        (tensor.dtype, tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)
        for tensor in tensors_of(module)
    )


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers of a module in one walk; it is taken at every use of a generator."""
    return [
        tensor
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    ]


def check_finite(states: Sequence[torch.Tensor], origin: str, remedy: str) -> None:
    """Raises ValueError if one of several tensors holds NaN or infinity; reads the device once for all of them."""
    if not states:
        return
    finite = torch.stack([state.isfinite().all().to(states[0].device) for state in states]).tolist()
    if not all(finite):
        clip = f"clip {finite.index(False)} (of {len(finite)})"
        raise ValueError(f"{origin} of {clip} are not finite: they hold NaN or infinity. {remedy}")
