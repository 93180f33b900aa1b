"""The generator's Triton kernels, one by one, against their definitions in torch, which are compiled on a GPU.

    python benchmarks/kernels.py                                 # CPU, tiny shapes: the definitions against themselves
    python benchmarks/kernels.py --full --output kernels.json    # GPU, Wan2.1-T2V-1.3B at 832x480, 32 frames

"GB/s" is what a kernel reads and writes at least, divided by its time: the device's bandwidth is its limit. The cosine
is that of what the two mean, float8 times its scale, over all rows.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from tqdm import tqdm

import vega3d
from vega3d.modeling import kernels_wan_vega3d as kernels

EPSILON = 1e-6
Job = tuple[Callable, Callable, tuple]  # the operator, its definition, and what both take


def jobs(frames: int, tokens: int, width: int, inner: int, heads: int, device: str) -> dict[str, Job]:
    """Each kernel with rows of `width` or, for GELU, `inner` channels, in bfloat16."""
    random = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=random).bfloat16()

    hidden, update = draw(frames, tokens, width), draw(frames, tokens, width)
    scale, shift, gate = draw(width), draw(width), draw(width)
    angles = draw(1, tokens, 1, width // heads // 2).float()
    rotary = torch.stack([angles.cos(), angles.sin()])
    affine = scale, shift, EPSILON
    prompt = draw(1, heads, 2, width // heads), draw(1, heads, 2, width // heads), draw(1, 1, 1, 2)
    return {
        "round": (kernels.ROUND, kernels.plain_round, (hidden,)),
        "GELU, round": (kernels.GELU_ROUND, kernels.plain_gelu_round, (draw(frames, tokens, inner),)),
        "norm, round": (kernels.NORM_ROUND, kernels.plain_norm_round, (hidden, *affine)),
        "gate, add, norm, round": (
            kernels.ADD_NORM_ROUND,
            kernels.plain_add_norm_round,
            (hidden, update, gate, *affine),
        ),
        "add, norm, round": (kernels.ADD_NORM_ROUND, kernels.plain_add_norm_round, (hidden, update, None, *affine)),
        "norm of heads, rotation": (
            kernels.ROTATE_HEADS,
            kernels.plain_rotate_heads,
            (hidden, update, scale, shift, rotary, EPSILON),
        ),
        "norm, prompt, round": (kernels.PROMPT_ROUND, kernels.plain_prompt_round, (hidden, scale, *prompt, EPSILON)),
    }


def tensors_of(values: object) -> list[torch.Tensor]:
    return [
        value for value in (values if isinstance(values, Sequence) else [values]) if isinstance(value, torch.Tensor)
    ]


def meant(results: object) -> list[torch.Tensor]:
    """Each result in float32; one in float8 times the scale that follows it."""
    tensors = tensors_of(results)
    scaled = [place for place, tensor in enumerate(tensors) if tensor.dtype == torch.float8_e4m3fn]
    values = [
        tensor.float() * tensors[place + 1] if place in scaled else tensor.float()
        for place, tensor in enumerate(tensors)
    ]
    return [value for place, value in enumerate(values) if place - 1 not in scaled]


def milliseconds(function: Callable, given: tuple, options) -> float:
    """The median of several calls, after three that warm up.

    On a GPU each call waits behind other work, so that the time of its launch does not count, and finds nothing of the
    call before in the cache.
    """
    times: list[float] = []
    events = []
    before = torch.empty(2**30 if options.device == "cuda" else 0, device=options.device, dtype=torch.uint8)
    for repeat in range(-3, options.repeats):
        if options.device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.zero_()
            start.record()
            function(*given)
            end.record()
            events.append((start, end))
        else:
            begun = time.perf_counter()
            function(*given)
            times.append(1000 * (time.perf_counter() - begun))
        if repeat == -1 and options.device == "cuda":
            torch.cuda.synchronize()
    if options.device == "cuda":
        torch.cuda.synchronize()
        times = [start.elapsed_time(end) for start, end in events]
    return statistics.median(times[3:])


def measure(job: Job, options) -> dict:
    operator, plain, given = job
    torch._dynamo.reset()
    compiled = torch.compile(plain) if options.device == "cuda" else plain
    ours, theirs = operator(*given), compiled(*given)
    moved = sum(tensor.nbytes for tensor in (*tensors_of(given), *tensors_of(ours)))
    kernel = milliseconds(operator, given, options)
    definition = milliseconds(compiled, given, options)
    cosines = [
        F.cosine_similarity(*pair, dim=-1).mean().item() for pair in zip(meant(ours), meant(theirs), strict=True)
    ]
    return {
        "kernel": kernel,
        "definition": definition,
        "ratio": definition / kernel,
        "gigabytes_per_second": moved / kernel / 1e6,
        "cosine": min(cosines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="shapes of Wan2.1-T2V-1.3B instead of tiny ones")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    shape = (options.frames, 1560, 1536, 8960, 12) if options.full else (options.frames, 12, 64, 96, 2)
    made = jobs(*shape, options.device)
    results = {
        "command": "python benchmarks/kernels.py" + (" --full" if options.full else ""),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, vega3d)},
        "triton": kernels.triton.__version__ if kernels.HAS_TRITON else None,
        "kernels": kernels.can_run(made["round"][2][0]),
        "frames, tokens, width, inner, heads": shape,
        "rows": {},
    }
    if not results["kernels"]:
        print("The kernels do not run here: each operator is its definition.")
    with torch.no_grad():
        for name, job in tqdm(made.items(), desc="kernels"):
            results["rows"][name] = row = measure(job, options)
            print(
                f"{name:25} kernel {row['kernel']:8.3f} ms, definition {row['definition']:8.3f} ms, "
                f"ratio {row['ratio']:5.2f}, {row['gigabytes_per_second']:6.0f} GB/s, cosine {row['cosine']:.6f}"
            )
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
