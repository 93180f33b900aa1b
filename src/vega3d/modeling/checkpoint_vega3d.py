"""Loading, saving and assembling: VLM, projector and fusion in `model.safetensors`, the generator in its own files.

Layout of a checkpoint: `config.json`, `model.safetensors`, `generator/transformer/`, `generator/vae/` (the last two in
diffusers' own layout, copied file by file).
"""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from .backbones_vega3d import check_seed, embed_empty_prompt, find_backbones, load_vlm, split_config
from .configuration_vega3d import VegaConfig
from .files_vega3d import (
    COPY_AGAIN,
    check_complete,
    check_indices,
    copy_files,
    hash_files,
    read_json,
    resolve_files,
    value_errors,
)
from .quantisation_vega3d import avoid_packed_kernel, keep_scales, keep_unquantised

PARTIAL_SAVE = ".saving-"
UPLOAD_OPTIONS = ("repo_id", "private", "token", "revision", "commit_message", "commit_description", "create_pr")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")
AUTO_MAP = {  # what `trust_remote_code=True` looks up; register_for_auto_class knows one class only
    "AutoConfig": "configuration_vega3d.VegaConfig",
    "AutoModel": "modeling_vega3d.VegaForSpatialReasoning",
    "AutoModelForImageTextToText": "modeling_vega3d.VegaForSpatialReasoning",
    "AutoModelForMultimodalLM": "modeling_vega3d.VegaForSpatialReasoning",
}


class CheckpointedModel(PreTrainedModel):
    """`from_pretrained`, `save_pretrained` and `from_backbones` of the fused model."""

    weights_prefix = ""  # path of the `VegaModel` inside the class
    own_parts: tuple[str, ...] = ()  # modules beside the `VegaModel`, new at assembly
    auto_map = AUTO_MAP

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        output_loading_info: bool = False,
        offload_generator: bool = False,
        **kwargs,
    ):
        """As in transformers; the generator is loaded from its own files by its own loader.

        With a `quantization_config` of bitsandbytes or torchao the language model is quantised, and nothing else.
        Fields of `VegaConfig` among the keywords replace those of the checkpoint. With `offload_generator` the
        generator's blocks wait in host memory (`VegaGenerator.load_files`).

        Raises:
            ValueError: for an option that cannot be followed (`check_loading_options`); if the folder holds
                another kind of model, if weights are missing or of other shapes, or if the generator's files are
                missing, truncated or of other shapes.
        """
        check_loading_options(kwargs)
        kwargs["use_safetensors"] = True  # nothing is unpickled
        kwargs.setdefault("trust_remote_code", False)  # else transformers asks, and takes what stands on its input
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        if folder.is_dir():
            check_indices(folder)
            if (folder / "generation_config.json").exists():
                read_json(folder / "generation_config.json")  # transformers takes a broken one for none
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = keep_unquantised(
                kwargs["quantization_config"], cls.weights_prefix, cls.own_parts
            )
        with (
            value_errors(f"The checkpoint {pretrained_model_name_or_path}"),
            loading(pretrained_model_name_or_path, kwargs),
        ):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        check_complete(pretrained_model_name_or_path, info["missing_keys"], COPY_AGAIN)
        check_vlm_is_whole(pretrained_model_name_or_path, info["unexpected_keys"])
        check_weights_are_finite(model, pretrained_model_name_or_path)
        avoid_packed_kernel(model)
        keep_scales(model)
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        source = model.config.generator_config.source
        # The folder of an adapter names that of its model.
        files = resolve_files(source, model.name_or_path, **hub)
        model.generator_module.load_files(files, offload=offload_generator)
        model.exclude_generator_weights()
        return (model, info) if output_loading_info else model

    def exclude_generator_weights(self) -> None:
        """The generator's weights stay in its own files, so saving leaves them out and resuming does not miss them.

        Weights that share their memory with others are left out by transformers, and not missed only if named here.
        """
        generator = {key for key in self.state_dict(keep_vars=True) if ".tower." in f".{key}"}
        weights = dict(self.named_parameters(remove_duplicate=False))
        tied = {key for key, other in self.all_tied_weights_keys.items() if weights.get(key) is weights.get(other)}
        self._keys_to_ignore_on_save = generator | tied

    def cast_weights(self, dtype: torch.dtype) -> None:
        """Casts all that `model.safetensors` holds to one dtype, but for the residual scale, which stays float32.

        Training computes in float32; a checkpoint has one dtype.
        """
        cast(self, dtype)
        self.generator_module.prompt_embeds = self.generator_module.prompt_embeds.to(dtype)
        self.config.dtype = dtype

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        """As in transformers, with the generator's files copied beside the weights unless `source` is a Hub id.

        Of the files of an earlier save those of another `variant` stay. An adapter (`add_adapter`) is saved alone.
        With `push_to_hub=True` the folder is also uploaded, whole, to `repo_id` (by default the folder's name).

        Raises:
            ValueError: if the generator was not loaded from files, or its files are gone; for an option that such a
                checkpoint cannot have.
            OSError: if the folder cannot be written.
        """
        for name in ("save_original_format", "distributed_checkpoint"):
            if kwargs.get(name):
                raise ValueError(
                    f"{name} is {kwargs[name]}, but only False makes files that load again. Leave it out."
                )
        generator = self.generator_module
        with_generator = generator.config.is_relative and not self._hf_peft_config_loaded
        if not self._hf_peft_config_loaded and (generator.files is None or not generator.files.is_dir()):
            raise ValueError(
                f"The generator's files ({generator.files}) are not there to copy: a generator is never written from "
                "memory. Load the model with `from_pretrained` or `from_backbones`, and keep its folder."
            )
        self.exclude_generator_weights()
        self.config.auto_map = dict(self.auto_map)
        kwargs["save_original_format"] = False  # Trainer cannot resume from Qwen2.5-VL's legacy key names
        hub = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if push_to_hub and name in kwargs}
        folder = Path(save_directory)
        if is_main_process:
            for left_over in folder.glob(f"{PARTIAL_SAVE}*/"):
                shutil.rmtree(left_over)
        try:
            with saving_into(folder, kwargs.get("variant")) as partial:
                super().save_pretrained(partial, is_main_process=is_main_process, **kwargs)
            if is_main_process and with_generator:
                copy_files(generator.files, folder / generator.config.source)
        except SafetensorError as error:
            raise OSError(f"{folder} cannot be written: {error}. Make room on the disk, or give another.") from error
        if is_main_process and push_to_hub:
            upload(folder, hub.pop("repo_id", folder.name), **hub)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "50GB", **hub):
        """Uploads the checkpoint, whole; upstream's version leaves out folders inside folders, as the generator's are.

        Args:
            repo_id: `org/name`; made if it is not there.
            max_shard_size: of the weight files.
            hub: `private`, `token`, `revision`, `commit_message`, `create_pr` of huggingface_hub.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return upload(Path(folder), repo_id, **hub)

    def make_weights(self, parts: Sequence[torch.nn.Module], like: PreTrainedModel, seed: int) -> None:
        """First weights of new parts, decided by the seed, where another model is and in its dtype."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in parts:
                part.to_empty(device=like.device)
                part.apply(self._init_weights)
                cast(part, like.dtype)

    @classmethod
    def from_backbones(
        cls,
        vlm: str | Path,
        generator: str | Path,
        prompt_embeds: torch.Tensor | None = None,
        dtype: torch.dtype | str = "auto",
        seed: int = 0,
        **config,
    ):
        """Assembles a new model from a pretrained VLM and a pretrained generator.

        Args:
            vlm: Hub id or folder of the vision-language model (Qwen2.5-VL or Qwen3-VL).
            generator: Hub id or folder of the generator in its published layout: `transformer/`, `vae/`, and
                `text_encoder/`, by which the empty prompt is embedded once.
            prompt_embeds: float[P, text_dim], used in place of the embedding of the empty prompt.
            dtype: of the weights; "auto" keeps the VLM's.
            seed: of the new weights, those of projector and fusion, and of the class's own parts.
            config: fields of `VegaConfig` (`fusion`, `projector`, ...) and `VegaGeneratorConfig` (`block`, ...).

        Raises:
            ValueError: for an unknown or bad option, a VLM of another family, or if files are missing.
        """
        check_seed(seed)
        backbones = find_backbones(vlm, generator, prompt_embeds, **config)
        folder = backbones.fetch_generator()
        generator_config = backbones.config.generator_config
        generator_config.files_hash = hash_files(folder)
        if prompt_embeds is None:
            prompt_embeds = embed_empty_prompt(folder)
        vlm_model = load_vlm(vlm, dtype)
        vlm_fields, _ = split_config(config)
        vega_config = VegaConfig(
            vlm_config=vlm_model.config.to_dict(), generator_config=generator_config.to_dict(), **vlm_fields
        )
        vega_config.dtype = vlm_model.dtype
        with torch.device("meta"):
            model = cls(vega_config)
        core = model.base_model
        core.vlm = vlm_model
        new_parts = [core.projector, core.fusion, *(model.get_submodule(name) for name in cls.own_parts)]
        model.make_weights([part for part in new_parts if part is not None], vlm_model, seed)
        core.generator.to_empty(device=vlm_model.device)
        core.generator.prompt_embeds = prompt_embeds.to(vlm_model.device, vlm_model.dtype)
        core.generator.load_files(folder)
        model.generation_config = vlm_model.generation_config
        model.exclude_generator_weights()
        return model.eval()


def check_weights_are_finite(model: Any, name: Any) -> None:
    """Raises ValueError if projector, fusion, heads or prompt hold NaN or infinity, which answers would be made of."""
    core = model.base_model
    weights = {"generator.prompt_embeds": core.generator.prompt_embeds}
    modules = {part: model.get_submodule(part) for part in model.own_parts}
    if core.config.fusion != "none":
        modules |= {part: core.get_submodule(part) for part in ("projector", "fusion")}
    for part, module in modules.items():
        weights |= {f"{part}.{key}": value for key, value in module.named_parameters()}
    for key, value in weights.items():
        if value.device.type != "meta" and value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"{name} holds NaN or infinity in {key}. Its training diverged, or the file is damaged: take an "
                "earlier checkpoint, or copy it again."
            )


@contextlib.contextmanager
def saving_into(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """A folder to write a save into; at the end its files replace those of `folder`, one by one, each of them whole.

    A save that is killed leaves each file as it was or as it will be, and a hidden folder that the next save removes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL_SAVE) as partial:
        yield Path(partial)
        saved = sorted(Path(partial).iterdir())
        superseded = saved_weight_files(folder, variant) if saved_weight_files(Path(partial), variant) else set()
        for file in saved:
            if file.is_dir() and (folder / file.name).is_dir():
                shutil.rmtree(folder / file.name)
            file.replace(folder / file.name)
    for name in superseded - {file.name for file in saved}:
        (folder / name).unlink()


def saved_weight_files(folder: Path, variant: str | None) -> set[str]:
    """Names of the weight files that a save of a variant wrote: one, or an index with the shards that it names."""
    stem, index = ("model", "model.safetensors.index")
    if variant is not None:
        stem, index = f"{stem}.{variant}", f"{index}.{variant}"
    names = {f"{stem}.safetensors", f"{index}.json"}
    try:
        named = set(json.loads((folder / f"{index}.json").read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        named = set()  # no index, or one that no save wrote
    shard = re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}\.safetensors")
    names |= {name for name in named if isinstance(name, str) and shard.fullmatch(name)}
    return {name for name in names if (folder / name).is_file()}


def upload(folder: Path, repo_id: str, private: bool | None = None, token: str | bool | None = None, **commit):
    """Creates the repository if needed and commits the folder to it."""
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    commit.setdefault("commit_message", "Upload model")
    return api.upload_folder(repo_id=repo_id, folder_path=folder, token=token, **commit)


def cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts all weights but the residual scale, which would never move in bfloat16, and those of the generator."""
    for name, parameter in module.named_parameters():
        if not name.endswith("residual_scale") and ".generator." not in f".{name}":
            parameter.data = parameter.data.to(dtype)


def check_vlm_is_whole(checkpoint: Any, unexpected: Collection[str]) -> None:
    """Raises ValueError for weights of the VLM that its config leaves out, such as layers that it does not count.

    Weights of other parts may be left over: a field such as `fusion="none"` replaces that of the checkpoint.
    """
    left = [name for name in unexpected if "vlm.model." in name]
    if left:
        raise ValueError(
            f"{checkpoint} has {len(left)} weights of the VLM that its config does not tell of, the first is "
            f"{min(left)}. Give the checkpoint with its own config.json."
        )


# --- Options of `from_pretrained` that a fused model cannot follow: each is refused with the reason and what to do ---

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
        raise ValueError(
            f"The weights in {cut_short(checkpoint)} cannot be read: {error}. Copy the checkpoint again."
        ) from error
    except OSError as error:
        if "model.safetensors" not in str(error):
            raise
        raise OSError(
            f"{checkpoint} has no model.safetensors. Weights are read from safetensors alone, nothing is unpickled: "
            "have them saved by `save_pretrained`, or get them as safetensors from their publisher."
        ) from error
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


def cut_short(checkpoint: Any) -> Any:
    """The first file of a local checkpoint whose weights cannot be read; else the checkpoint."""
    for file in sorted(Path(str(checkpoint)).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return file
    return checkpoint


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
