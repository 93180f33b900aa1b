"""A generator whose VAE is a tiny one in the layout of TAEHV, in the place of Wan's own."""

import shutil
import tempfile
from pathlib import Path

import torch

from vega3d.files import write_json
from vega3d.hub.original_wan import STEM, Report, Wan, fetch_wan
from vega3d.hub.tensor_files import Stored, stored_tensors, unpickled, write_tensors
from vega3d.hub.weight_checks import check_weights
from vega3d.modeling.backbones_vega3d import KINDS, TEXT_ENCODER
from vega3d.modeling.files_vega3d import PROMPT_FILE
from vega3d.modeling.layouts_vega3d import check_generator
from vega3d.modeling.tiny_vae_wan_vega3d import LAST, TinyVAEToLatents

SUFFIXES = (".safetensors", ".pth", ".pt")
GIVE_TAEHV = "Give taew2_1, the one of Wan2.1."


def write_with_tiny_vae(file: Path, wan: Wan, target: Path, report: Report) -> None:
    """Writes all of a Wan but its VAE, and in its place the encoder of a file of weights.

    Raises ValueError, before anything large is read, if these are no weights of TAEHV, or of other latents than the
    transformer takes.
    """
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        is_pickle = file.suffix != ".safetensors"
        tensors = unpickled(file, Path(scratch)) if is_pickle else stored_tensors([file])
        encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
        config = tiny_config(encoder, file)
        check_generator(wan.transformer, config)
        with torch.device("meta"):
            expected = TinyVAEToLatents(**config).state_dict()
        check_weights(encoder, expected, f"The VAE in {file}", again=GIVE_TAEHV)
        (target / "vae").mkdir()
        write_json(target / "vae" / "config.json", {"_class_name": "TAEHV", **config})
        write_tensors(target / "vae" / f"{STEM}.safetensors", encoder)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        source = fetch_wan(wan, Path(scratch), report)
        report(f"copying the transformer of {wan.name}")
        wanted = [f"{part}/*.{kind}" for part in ("transformer", TEXT_ENCODER) for kind in KINDS]
        for found in sorted(path for pattern in [*wanted, PROMPT_FILE] for path in source.glob(pattern)):
            copy = target / found.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(found, copy)


def tiny_config(encoder: Stored, file: Path) -> dict:
    """The config of the VAE whose encoder these weights are; raises ValueError if they are none of TAEHV."""
    first, last = encoder.get("encoder.0.weight"), encoder.get(f"encoder.{LAST}.weight")
    if first is None or last is None or len(first.shape) != 4 or "encoder.2.conv.weight" not in encoder:
        raise ValueError(f"{file} holds no encoder in the layout of TAEHV. {GIVE_TAEHV}")
    width, colours = first.shape[:2]
    if colours != 3:
        raise ValueError(f"The VAE in {file} takes patches of {colours} colours, but must take 3. {GIVE_TAEHV}")
    latents = last.shape[0]
    return {"z_dim": latents, "tiny_width": width, "latents_mean": [0.0] * latents, "latents_std": [1.0] * latents}
