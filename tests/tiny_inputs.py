"""Batches of token ids and random pixels for the tiny model, packed as the processor packs them."""

from dataclasses import dataclass

import torch

from tiny_models import IMAGE_TOKEN, VIDEO_TOKEN, VISION_END, VISION_START

PATCH_VALUES = 3 * 2 * 8 * 8
GENERATOR_VALUES = 3 * 16 * 16
TIME_TOKEN = 250


@dataclass(frozen=True)
class Visual:
    """A video of `frames`, or an image if `frames` is 0; grids of VLM patches and of generator patches."""

    frames: int
    patches: tuple[int, int] = (4, 6)
    generator_patches: tuple[int, int] = (2, 3)
    seed: int = 0

    @property
    def is_video(self) -> bool:
        return self.frames > 0

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        return ((max(self.frames, 1) + 1) // 2, *self.patches)

    @property
    def generator_grid(self) -> tuple[int, int, int]:
        return (max(self.frames, 1), *self.generator_patches)

    def tokens(self, vlm_type: str) -> list[int]:
        """As the VLM's processor writes them; Qwen3-VL has a time (here two tokens) and a run for each patch."""
        t, h, w = self.patch_grid
        placeholder = VIDEO_TOKEN if self.is_video else IMAGE_TOKEN
        content = [placeholder] * (t * h * w // 4)
        if self.is_video and vlm_type == "qwen3_vl":
            run = [VISION_START, *[placeholder] * (h * w // 4), VISION_END]
            content = [token for patch in range(t) for token in (TIME_TOKEN + patch, TIME_TOKEN - 1, *run)]
        return [VISION_START, *content, VISION_END]

    def pixels(self) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(self.seed)
        t, h, w = self.patch_grid
        patches = torch.randn(t * h * w, PATCH_VALUES, generator=random)
        t, h, w = self.generator_grid
        generator_patches = torch.randint(0, 256, (t * h * w, GENERATOR_VALUES), dtype=torch.uint8, generator=random)
        return patches, generator_patches


Prompt = list["int | Visual"]


def batch(*prompts: Prompt, vlm_type: str = "qwen2_5_vl") -> dict[str, torch.Tensor]:
    """Prompts of token ids and visuals, padded on the left."""
    rows = [
        [t for part in prompt for t in (part.tokens(vlm_type) if isinstance(part, Visual) else [part])]
        for prompt in prompts
    ]
    length = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[0] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
    }
    visuals = [part for prompt in prompts for part in prompt if isinstance(part, Visual)]
    for is_video, modality, suffix in ((False, "image", ""), (True, "video", "_videos")):
        chosen = [visual for visual in visuals if visual.is_video == is_video]
        if chosen:
            patches, generator_patches = zip(*(visual.pixels() for visual in chosen), strict=True)
            inputs[f"pixel_values{suffix}"] = torch.cat(patches)
            inputs[f"{modality}_grid_thw"] = torch.tensor([visual.patch_grid for visual in chosen])
            inputs[f"generator_pixel_values{suffix}"] = torch.cat(generator_patches)
            inputs[f"generator_{modality}_grid_thw"] = torch.tensor([visual.generator_grid for visual in chosen])
    return inputs


def without_generator(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the plain VLM takes."""
    ids = inputs["input_ids"]
    types = (ids == IMAGE_TOKEN).int() + 2 * (ids == VIDEO_TOKEN).int()
    kept = {name: value for name, value in inputs.items() if not name.startswith("generator_")}
    return {**kept, "mm_token_type_ids": types}


VIDEO = Visual(5, seed=1)
SHORT_VIDEO = Visual(2, patches=(6, 4), generator_patches=(3, 2), seed=2)
IMAGE = Visual(0, patches=(4, 4), generator_patches=(2, 2), seed=3)
CASES: dict[str, list[Prompt]] = {
    "video": [[5, 6, VIDEO, 7, 8]],
    "image": [[5, IMAGE, 7, 8]],
    "mixture": [[5, VIDEO, IMAGE, 7]],
    "several": [[VIDEO, 9, SHORT_VIDEO, 7, 8]],
    "batch": [[5, VIDEO, 7, 8], [IMAGE, 4], [3, SHORT_VIDEO, IMAGE, 9, 9, 9], [5, 6, 7]],
    "text": [[5, 6, 7, 8]],
}
