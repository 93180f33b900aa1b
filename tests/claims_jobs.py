"""What the documentation claims to be the same each time: one function a claim, which makes it and returns its hash.

python tests/claims_jobs.py NAMES FOLDER REPETITIONS   # prints {name: [hash, ...]} as JSON
"""

import gc
import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def digest_of(*values: bytes | str | torch.Tensor) -> str:
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        digest.update(value.encode() if isinstance(value, str) else value)
    return digest.hexdigest()


def digest_of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of(*(part for file in files for part in (str(file.relative_to(folder)), file.read_bytes())))


def frames(seed: int = 0, count: int = 8, height: int = 64, width: int = 96) -> np.ndarray:
    """Soft moving shapes: an encoder has more to decide on them than on noise."""
    x, y, t = np.meshgrid(np.arange(width), np.arange(height), np.arange(count), indexing="xy")
    waves = [np.sin((x * (k + 1) + y * (3 - k) + 9 * t + 37 * seed) / 11) for k in range(3)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8).transpose(2, 0, 1, 3)


def small_clip(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(frames(seed, 3)).permute(0, 3, 1, 2).contiguous()


def data_set(folder: Path, workers: int = 1) -> str:
    from vega3d.rooms.dataset import DatasetSettings
    from vega3d.rooms.dataset.dataset import synthesize

    settings = DatasetSettings(split="validation", size=128, num_frames=5, trajectories=1, questions_per_type=1)
    synthesize(folder / "rooms", settings, num_scenes=2, workers=workers, preview=True)
    return digest_of_folder(folder / "rooms")


def data_set_of_two_workers(folder: Path) -> str:
    return data_set(folder, workers=2)


def video(folder: Path) -> str:
    from vega3d.video_files import write_video

    write_video(folder / "clip.mp4", frames(count=17, height=128, width=128), fps=4)
    return digest_of((folder / "clip.mp4").read_bytes())


def cache_entry(folder: Path) -> str:
    from vega3d.features.cache import FeatureCache

    cache = FeatureCache(folder / "features")
    cache.put(small_clip(), "identity", torch.arange(24.0).reshape(1, 2, 3, 4))
    return digest_of_folder(folder / "features")


def noise(folder: Path) -> str:
    """Of five frames at once, and of the last two alone."""
    from vega3d.modeling.noise_vega3d import SeededNoise

    whole = SeededNoise(7, shared=False)(0, (5, 4, 6, 8))
    assert torch.equal(SeededNoise(7, shared=False)(3, (2, 4, 6, 8)), whole[3:])
    return digest_of(whole)


def features(folder: Path) -> str:
    """Of one clip, alone and after another one."""
    model, _ = stored()
    generator = model.generator_module
    (alone,) = generator.encode([small_clip()])
    behind = generator.encode([small_clip(1), small_clip()])[1]
    assert torch.equal(alone, behind)
    return digest_of(alone)


def checkpoint(folder: Path) -> str:
    """Saved, loaded and saved again."""
    from vega3d import VegaForSpatialReasoning

    model, _ = stored()
    model.save_pretrained(folder / "first")
    VegaForSpatialReasoning.from_pretrained(folder / "first").save_pretrained(folder / "second")
    first, second = (digest_of_folder(folder / name) for name in ("first", "second"))
    assert first == second
    return first


def answer(folder: Path) -> str:
    """The stored checkpoint's, by likelihood and in free text."""
    from vega3d.inference.session import Session
    from vega3d.processing.video_vega3d import read_video
    from vega3d.questions import SpatialQuestion
    from vega3d.shipped import example_clip

    clip = read_video(example_clip("room"), num_frames=4)
    told = []
    for question in (
        SpatialQuestion(clip, "Is there a bed in this room?", ("Yes", "No")),
        SpatialQuestion(clip, "How many chairs are in this room?", is_numeric=True),
    ):
        answered = Session(*stored(), num_frames=4).answer(question)
        told.append(json.dumps([answered.text, answered.options]))
    return digest_of(*told)


def closed_fusion(folder: Path) -> str:
    """Residual fusion with r = 0 against the plain VLM, bit for bit."""
    from transformers import AutoModelForImageTextToText

    from tiny_inputs import CASES, batch, without_generator
    from tiny_models import BLOCK, save_generator, save_vlm
    from vega3d import VegaForSpatialReasoning

    vlm, generator = save_vlm(folder / "vlm", "qwen2_5_vl"), save_generator(folder / "generator")
    plain = AutoModelForImageTextToText.from_pretrained(vlm)
    options = {"block": BLOCK, "projector_hidden_size": 32}
    inputs = batch(*CASES["batch"])
    logits = plain(**without_generator(inputs)).logits
    for fusion in ("token_gated_residual", "none"):
        fused = VegaForSpatialReasoning.from_backbones(vlm, generator, fusion=fusion, **options)
        assert torch.equal(fused(**inputs).logits, logits), fusion
    return digest_of(logits)


def result_file(folder: Path) -> str:
    from evaluation.evaluation_data import question_records
    from vega3d.evaluation.answerers import ChanceAnswerer
    from vega3d.evaluation.run import evaluate

    evaluate(ChanceAnswerer(0), question_records(4), folder / "result.json", "vsibench", resamples=50)
    return digest_of((folder / "result.json").read_bytes())


def trained_model(folder: Path) -> str:
    """Two steps of the gate, from a config."""
    from training.training_data import run_config, run_training, write_clip, write_jsonl

    rows = []
    for number in range(2):
        write_clip(folder / f"clip{number}.mp4", number)
        asked = [{"type": "video"}, {"type": "text", "text": "Is there a bed?"}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "Yes"}]
        rows.append({"id": f"row{number}", "messages": messages, "videos": [f"clip{number}.mp4"]})
    config = run_config(write_jsonl(folder / "rows.jsonl", rows), folder / "run", steps=2, save_steps=1)
    run_training(config)
    return digest_of((folder / "run" / "model.safetensors").read_bytes())


def questions(folder: Path) -> str:
    from vega3d.rooms.dataset import DatasetSettings
    from vega3d.rooms.dataset.dataset import synthesize

    settings = DatasetSettings(split="test", size=128, num_frames=5, videos=False)
    return digest_of(synthesize(folder / "rooms", settings, num_scenes=1).read_bytes())


_STORED: list = []


def stored():
    """The stored checkpoint in float32, loaded once a process."""
    from tiny_checkpoints import FROZEN
    from vega3d.hub.load import load_vega

    if not _STORED:
        _STORED.append(load_vega(FROZEN, device="cpu", dtype="float32"))
    return _STORED[0]


CLAIMS: dict[str, Callable[[Path], str]] = {  # the words of the documentation -> what makes it
    "docs/data.md: the same frames give the same bytes": video,
    "docs/data.md: tables alone": questions,
    "docs/features.md: of two writers of one entry the last wins, with the same bytes": cache_entry,
    "docs/method.md: noise is a function of seed and frame": noise,
    "docs/method.md: features depend on the clip and the config alone": features,
    "docs/method.md: a closed fusion is the plain VLM, bit for bit": closed_fusion,
    "docs/hub.md: a checkpoint that is loaded and saved is the same": checkpoint,
    "README.md: the same question has the same answer": answer,
    "docs/evaluation.md: the same answers give the same result file": result_file,
    "docs/training.md: the same losses and weights, bit for bit": trained_model,
}
SLOW_CLAIMS: dict[str, Callable[[Path], str]] = {  # half a minute each, on a busy machine a minute
    "docs/data.md: two runs give the same bytes": data_set,
    "docs/data.md: with 1 and 2 workers": data_set_of_two_workers,
}


def run_all(names: list[str], folder: Path, repetitions: int) -> dict[str, list[str]]:
    """The hashes of each claim; other random numbers are drawn meanwhile, and files come in another order."""
    random.seed()
    np.random.seed(random.randrange(2**32))
    torch.manual_seed(random.randrange(2**32))
    hashes: dict[str, list[str]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for number, name in enumerate(random.sample(names, len(names))):
            place = folder / f"{repetition}-{number}"
            place.mkdir()
            hashes[name].append({**CLAIMS, **SLOW_CLAIMS}[name](place))
    return hashes


if __name__ == "__main__":
    gc.set_threshold(50_000)  # else a fifth of the time of imports goes into looking for cycles
    told = run_all(json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(told))
