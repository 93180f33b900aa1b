"""Weights that several processes share out: whole in files, the generator whole on each process.

DDP leaves all weights whole. FSDP2 and ZeRO cut them up, which is called sharded here: each process holds a piece. A
checkpoint holds trained weights whole, however they lie in memory, so that it loads anywhere.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from vega3d.extras import optional_module
from vega3d.modeling.modeling_vega3d import VegaModel
from vega3d.training.parts import GENERATOR_PREFIX

KINDS = ("image_grid_thw", "video_grid_thw")
ERROR = "vega3d/error"  # in the store that the launcher gives to all processes
CONNECTIONS = ("gloo", "NCCL", "Connection")  # words of errors of a process whose partner has gone
FROM_FILES = "Set it to false: each process loads the frozen generator whole, from its files."
OPTIMIZER_STEP = "step"  # a number in the state of each parameter, whole on each process


@contextlib.contextmanager
def generator_apart(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Takes the frozen generator out of a model while DDP, FSDP2 or DeepSpeed prepares it, and puts it back.

    So it is neither cut up nor sent to other processes nor cast: each process has it whole from its files.

    Args:
        model: or a wrapper around it.
        device: where the generator goes, if it is given.
    """
    owner = next(module for module in model.modules() if isinstance(module, VegaModel))
    generator: Any = owner.generator
    owner.generator = None  # type: ignore[assignment]  # it keeps its place
    try:
        yield
    finally:
        owner.generator = generator if device is None else generator.to(device)


def check_launch(accelerator: Accelerator) -> None:
    """Raises ValueError for settings of FSDP and DeepSpeed under which the model could not be what it is."""
    wrong: list[tuple[bool, str, str]] = []
    if accelerator.distributed_type == DistributedType.FSDP:
        wrong = wrong_of_fsdp(accelerator.state.fsdp_plugin)
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        wrong = wrong_of_deepspeed(accelerator.state.deepspeed_plugin)
    for is_wrong, what, remedy in wrong:
        if is_wrong:
            raise ValueError(f"The config of accelerate has {what}. {remedy} See those in recipes/accelerate.")


def wrong_of_fsdp(plugin: FullyShardedDataParallelPlugin) -> list[tuple[bool, str, str]]:
    """What may be wrong: whether it is, what, and what to do."""
    checkpointing = "Set it to false, and `gradient_checkpointing: true` in the config of the run."
    return [
        (plugin.fsdp_version != 2, "fsdp_version: 1", "Set fsdp_version: 2."),
        (bool(plugin.cpu_ram_efficient_loading), "fsdp_cpu_ram_efficient_loading: true", FROM_FILES),
        (bool(plugin.activation_checkpointing), "fsdp_activation_checkpointing: true", checkpointing),
    ]


def wrong_of_deepspeed(plugin: DeepSpeedPlugin) -> list[tuple[bool, str, str]]:
    """The same of DeepSpeed."""
    config = plugin.deepspeed_config
    return [
        (plugin.zero_stage == 3, "zero_stage: 3", "ZeRO-3 has not trained here: fsdp2.yaml cuts up weights, too."),
        ("optimizer" in config, "an optimizer of DeepSpeed", "Leave it out: each part has a rate of its own."),
        ("scheduler" in config, "a schedule of DeepSpeed", "Leave it out: the config of the run names one."),
    ]


def give_scalars_a_dimension(model: nn.Module) -> list[str]:
    """Gives each scalar weight, such as the residual scale r, one dimension, and returns their names.

    FSDP2 cuts weights along the first dimension, and DeepSpeed sends them as bytes. `whole_weights` takes it away.
    """
    with generator_apart(model):
        scalars = [(name, parameter) for name, parameter in model.named_parameters() if parameter.ndim == 0]
    for _, parameter in scalars:
        parameter.data = parameter.data.reshape(1)
    return [name for name, _ in scalars]


def prepare_plugin(model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> None:
    """Tells FSDP2 which layers it cuts one by one, and leaves dtypes to autocast.

    Weights keep their dtype, and inputs theirs, as with DDP: FSDP2 would otherwise round r and positions in
    the world. Raises ValueError if trained weights are of several dtypes.
    """
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    if len(dtypes) > 1:
        raise ValueError(
            f"The trained weights are {' and '.join(sorted(dtypes))}, but FSDP2 needs them in one dtype. Leave "
            "float32_trained at true, or cast them."
        )
    plugin.mixed_precision_policy = None
    if plugin.transformer_cls_names_to_wrap is None:
        with generator_apart(model):
            layers = set(next(m for m in model.modules() if isinstance(m, VegaModel))._no_split_modules)
            present = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(layers & present)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor of which processes hold pieces; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor as the parameter lies in memory: this process's piece of it, if the parameter is sharded."""
    tensor = tensor.reshape(parameter.shape)
    if not isinstance(parameter, DTensor):
        return tensor
    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole_weights(
    parameters: Mapping[str, nn.Parameter], scalars: Collection[str], keep: bool, is_deepspeed: bool = False
) -> dict[str, torch.Tensor]:
    """Whole weights on the CPU, by name; all processes must ask, and one that does not keep them gets none.

    Of DeepSpeed the trained ones are the float32 weights of its optimizer.
    """
    tensors = {}
    for name, parameter in parameters.items():
        tensor = whole_of_deepspeed(parameter) if is_deepspeed else whole(parameter.detach())
        if keep:
            tensors[name] = tensor.reshape(() if name in scalars else tensor.shape).contiguous().cpu()
    return tensors


def whole_of_deepspeed(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.requires_grad:
        return optional_module("deepspeed.utils").safe_get_full_fp32_param(parameter)
    with optional_module("deepspeed.zero").GatheredParameters([parameter]):
        return parameter.detach().clone()


def whole_optimizer_state(
    optimizer: torch.optim.Optimizer, scalars: Sequence[nn.Parameter], keep: bool
) -> dict[str, Any] | None:
    """`optimizer.state_dict()` with whole tensors on the CPU, as an unsharded optimizer has it; None if not kept.

    All processes must ask. `scalars` are the parameters whose one dimension is not theirs.
    """
    state = optimizer.state_dict()
    flat = {id(parameter) for parameter in scalars}
    gathered: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(parameters_of(optimizer)):
        if number not in state["state"]:
            continue
        gathered[number] = {}
        for name, value in state["state"][number].items():
            tensor = whole(value) if isinstance(value, torch.Tensor) else value
            if id(parameter) in flat and isinstance(tensor, torch.Tensor) and name != OPTIMIZER_STEP:
                tensor = tensor.reshape(())
            if keep:
                gathered[number][name] = tensor.cpu() if isinstance(tensor, torch.Tensor) else tensor
    return {**state, "state": gathered} if keep else None


def load_whole_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Gives a sharded optimizer its pieces of a state of whole tensors."""
    for number, parameter in enumerate(parameters_of(optimizer)):
        values = state["state"].get(number, {})
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and name != OPTIMIZER_STEP and value.numel() == parameter.numel():
                values[name] = like(value, parameter)
    optimizer.load_state_dict(state)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Its parameters in the order in which their states are numbered."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextlib.contextmanager
def of_own_class(model: nn.Module) -> Iterator[None]:
    """Gives a model of FSDP2 its own class back while it is saved: a checkpoint copies the code of the class."""
    prepared = type(model)
    if issubclass(prepared, FSDPModule):
        own: Any = prepared.__mro__[2]  # behind the class that FSDP2 makes, and FSDPModule
        model.__class__ = own
    try:
        yield
    finally:
        model.__class__ = prepared


def is_of_generator(name: str) -> bool:
    return f".{GENERATOR_PREFIX}" in f".{name}"


def check_same_kinds(accelerator: Accelerator, inputs: Mapping, ids: Sequence[str]) -> None:
    """Raises ValueError on all processes unless all have images, or all none, and the same of videos.

    Processes with sharded weights gather each layer together, and would wait for one that leaves the vision tower out.
    """
    own = torch.tensor([[name in inputs for name in KINDS]], dtype=torch.uint8, device=accelerator.device)
    found = accelerator.gather(own).tolist()
    if all(any(kinds) and kinds == found[0] for kinds in found):
        return
    words = [" and ".join(n.split("_")[0] for n, has in zip(KINDS, kinds, strict=True) if has) for kinds in found]
    listed = ", ".join(f"process {number}: {kinds or 'none'}" for number, kinds in enumerate(words))
    raise ValueError(
        f"The processes have other visuals in one step ({listed}; here the rows {', '.join(ids)}), but with FSDP and "
        "DeepSpeed each needs the same kinds, and at least one. Train with DDP (recipes/accelerate/ddp.yaml), or on "
        "rows of one kind."
    )


@contextlib.contextmanager
def one_error(process: int, processes: int) -> Iterator[None]:
    """Ends all processes of a run with the error of the one that failed first, as a ValueError.

    The others would say that a connection was closed, and leave open why. A process that was killed says nothing.
    """
    try:
        yield
    except Exception as error:
        if processes == 1 or not dist.is_initialized():
            raise
        is_own = not is_of_connection(error)
        first = first_error(f"{process}: {error}" if is_own else None)
        number, _, message = first.partition(": ")
        if number not in ("", str(process)):
            raise ValueError(f"Process {number} has ended: {message}") from error
        if is_own:
            raise
        raise ValueError(
            f"Another process of the run has ended without a word ({str(error).strip().splitlines()[0]:.200}). It may "
            "have been killed, as for want of memory. The same command continues from the last whole checkpoint."
        ) from error


def is_of_connection(error: Exception) -> bool:
    is_plain = type(error) is RuntimeError and any(word in str(error) for word in CONNECTIONS)
    return is_plain or isinstance(error, dist.DistError)


def first_error(own: str | None) -> str:
    """What the process that failed first says, after its number; "" if none has said anything."""
    with contextlib.suppress(dist.DistError, RuntimeError):  # the process that holds the store may have gone
        store = dist.distributed_c10d._get_default_store()
        if own is not None:
            return store.compare_set(ERROR, "", own).decode()
        if store.check([ERROR]):
            return store.get(ERROR).decode()
    return own or ""
