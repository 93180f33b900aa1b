"""An experiment from its recipe, stage after stage; what is done is not done again, so the same call goes on.

    OUT/rooms/{split}/...            frames and rows (`rooms.py`)
    OUT/vlm, OUT/placeholder         the untrained VLM; a generator for models that use none
    OUT/stage0/...                   its training, checkpoint and accuracy on validation rooms
    OUT/NAME/streams/{split}/{name}/...   semantic tokens, and the hidden states of each arm
    OUT/NAME/base/...                the VLM after spatial questions without a generator, if the recipe has this stage
    OUT/NAME/arms/{arm}/seed{n}/...       the trainings of stage 1
    OUT/NAME/results/{split}/{arm}-seed{n}.json   result files of the evaluation

Recipes with other names may share OUT, and with it rooms and stage 0, where these are equal.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from research.tiny.study.answering import PackedAnswerer
from research.tiny.study.arms import arm_model, generator_identity, write_placeholder_generator
from research.tiny.study.cells import CELL, CellHead
from research.tiny.study.data import CLOSE_UP_FRAMES, SplitData, Words
from research.tiny.study.heads import Heads
from research.tiny.study.kept import KeptTensors
from research.tiny.study.loop import RESULT, TRAINED, Deadline
from research.tiny.study.map_rows import MAP_KINDS
from research.tiny.study.recipe import TEST_SPLITS, TRAIN, VALIDATION, ArmRecipe, Recipe
from research.tiny.study.rooms import RoomShards, make_rooms
from research.tiny.study.stage0_rows import CLIP_KINDS, CLOSE_UP
from research.tiny.study.stages import (
    PackMaker,
    Streams,
    Tools,
    bare_accuracy,
    cell_accuracy,
    fused_rows,
    make_heads,
    point_errors,
    train_stage0,
    train_stage1,
)
from research.tiny.study.tokens import generator_states, make_stream, semantic_tokens
from research.tiny.study.vlm import VLMRecipe, write_vlm
from vega3d.evaluation.run import evaluate
from vega3d.files import whole_folder, write_json
from vega3d.hub.assemble import make_processor
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.runs import sha256
from vega3d.training.checkpoints import load_trained
from vega3d.training.parts import parameter_part

RECORDS_AT_A_TIME = 2048
POINTS = "points.json"  # of a run: `stages.point_errors` of validation rooms
Tell = Callable[[dict], None]


class Experiment:
    """
    Args:
        recipe: of it.
        output: folder of all it makes.
        device: of models.
        deadline: after which nothing long is begun.
        workers: processes that make rooms.
        furniture: pack for `test_unseen`.
        tell: called with what happens, as plain values.
    """

    def __init__(
        self,
        recipe: Recipe,
        output: str | Path,
        device: str | torch.device = "cpu",
        deadline: Deadline | None = None,
        workers: int = 1,
        furniture: Path | None = None,
        tell: Tell | None = None,
    ):
        self.recipe, self.output = recipe, Path(output)
        self.own = self.output / recipe.name
        self.device = torch.device(device)
        self.deadline, self.workers, self.furniture = deadline or Deadline(), workers, furniture
        self.tell = tell or (lambda values: None)
        self._tools: Tools | None = None
        self._data: dict[tuple[str, int], SplitData] = {}

    # Rooms

    @property
    def splits(self) -> list[str]:
        return [split for split in (TRAIN, VALIDATION, *TEST_SPLITS) if asdict(self.recipe.rooms)[split] > 0]

    def shards(self, split: str) -> RoomShards:
        rooms = self.recipe.rooms
        return RoomShards(
            self.output / "rooms",
            split,
            asdict(rooms)[split],
            rooms.walks if split == TRAIN else 1,
            rooms.num_frames,
            rooms.size,
            rooms.training_questions_per_type if split == TRAIN else rooms.questions_per_type,
            rooms.renderer,  # type: ignore[arg-type]
            rooms.quality,  # type: ignore[arg-type]
            rooms.rooms_per_shard,
            self.furniture if split == "test_unseen" else None,
        )

    def make_rooms(self) -> None:
        splits = [self.shards(split) for split in self.splits]
        with closing(make_rooms(splits, self.workers)) as made:  # closed, it calls off the shards not begun
            for shards, number, clips in made:
                done, split = number + 1, shards.split
                self.tell({"rooms": split, "shard": done, "shards": len(shards), "clips": clips})
                self.deadline.check(f"rooms of {split}: {done} of {len(shards)} shards")

    def has_rooms(self, split: str) -> bool:
        """Whether all shards of a split are there, such as another process makes them."""
        shards = self.shards(split)
        return all(shards.files(number)[1].is_file() for number in range(len(shards)))

    def data(self, split: str, stage: int) -> SplitData:
        key = split, stage
        if key not in self._data:
            asked = [*self.recipe.categories, *(MAP_KINDS if split == TRAIN else ())]
            self._data[key] = SplitData(self.shards(split), stage, asked if stage == 1 else CLIP_KINDS)
        return self._data[key]

    def close_ups(self, split: str) -> SplitData:
        return SplitData(self.shards(split), 0, [CLOSE_UP])

    # Stage 0

    def tools(self) -> Tools:
        if self._tools is None:
            vlm, placeholder = self.output / "vlm", self.output / "placeholder"
            if not (vlm / "config.json").is_file():
                write_vlm(VLMRecipe(**self.recipe.vlm), vlm)
            write_placeholder_generator(placeholder)
            model = arm_model(self.recipe, ArmRecipe(fusion="none"), vlm, placeholder, 0)
            rooms = self.recipe.rooms
            processor = make_processor(vlm, model.config.generator_config, generator_max_area=rooms.size**2)
            words = Words(processor.tokenizer)
            walks = make_stream(model, processor, words, rooms.num_frames, rooms.size)
            close_ups = make_stream(model, processor, words, CLOSE_UP_FRAMES, rooms.size)
            self._tools = Tools(self.recipe, words, walks, close_ups, self.device, self.deadline, self.tell)
        return self._tools

    def stage0(self) -> Path:
        """Folder of the VLM after stage 0, trained if it is not there yet."""
        tools, folder = self.tools(), self.output / "stage0"
        done = folder / "model"
        identity = {
            "recipe": self.recipe.digest("rooms", "vlm", "stage0", "precision"),
            "vlm": sha256(self.output / "vlm" / "model.safetensors"),
            "device": self.device.type,
        }
        model = arm_model(
            self.recipe, ArmRecipe(fusion="none"), self.output / "vlm", self.output / "placeholder", 0
        ).to(self.device)
        seed = VLMRecipe(**self.recipe.vlm).seed
        head = self.cell_head(model, seed)
        log = train_stage0(model, head, self.data(TRAIN, 0), self.close_ups(TRAIN), tools, folder, identity, seed)
        if not (folder / "validation.json").is_file():
            accuracy = bare_accuracy(model, self.data(VALIDATION, 0), tools, tools.stream)
            accuracy |= bare_accuracy(model, self.close_ups(VALIDATION), tools, tools.close_ups)
            accuracy |= cell_accuracy(model, head, self.data(VALIDATION, 0), tools)
            write_json(folder / "validation.json", accuracy)
            self.tell({"stage0": accuracy, "loss": log[-1]["loss"]})
        self.save_vlm(model, done)
        return done

    def save_vlm(self, model: VegaForSpatialReasoning, folder: Path) -> None:
        """The VLM alone, and its processor, unless they are there."""
        if (folder / "config.json").is_file():
            return
        shutil.rmtree(folder, ignore_errors=True)
        with whole_folder(folder) as partial:
            model.model.vlm.save_pretrained(partial)
            own = shutil.ignore_patterns("*.safetensors", "config.json")
            shutil.copytree(self.output / "vlm", partial, ignore=own, dirs_exist_ok=True)

    def cell_head(self, model: VegaForSpatialReasoning, seed: int) -> CellHead:
        vision = model.config.vlm_config.vision_config
        edge = vision.patch_size * vision.spatial_merge_size
        if edge != CELL:
            raise ValueError(f"A visual token is {edge} px wide, but a cell {CELL}. Choose vlm.patch {CELL // 2}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return CellHead(vision.out_hidden_size, vision.temporal_patch_size, self.tools().stream.prefix.grid).to(
                self.device
            )

    # Frozen streams

    def generator_folder(self, arm: ArmRecipe) -> Path:
        if arm.generator is None:
            return self.output / "placeholder"
        return Path(self.recipe.generators[arm.generator])

    def kept(self, split: str, arm_name: str | None) -> KeptTensors:
        """The semantic tokens, or the hidden states of an arm; equal generators share one folder of states."""
        data = self.data(split, 1)
        common = {**self.shards(split).settings, "kinds": self.recipe.categories, "precision": self.recipe.precision}
        if arm_name is None:
            vlm = sha256(self.output / "stage0" / "model" / "model.safetensors")
            return KeptTensors(self.own / "streams" / split / "semantic", len(data.visuals), {"rooms": common,
                               "vlm": vlm})  # fmt: skip
        arm = self.recipe.arms[arm_name]
        identity = {"rooms": common, **generator_identity(arm, self.generator_folder(arm))}
        same = [name for name, other in self.recipe.arms.items()
                if (other.generator, other.options) == (arm.generator, arm.options)]  # fmt: skip
        return KeptTensors(self.own / "streams" / split / f"hidden-{same[0]}", len(data.visuals), identity)

    def fill_streams(self, split: str, arm_name: str | None) -> KeptTensors:
        kept = self.kept(split, arm_name)
        if kept.is_whole:
            return kept
        tools, data = self.tools(), self.data(split, 1)
        arm = ArmRecipe(fusion="none") if arm_name is None else self.recipe.arms[arm_name]
        model = arm_model(
            self.recipe, arm, self.output / "stage0" / "model", self.generator_folder(arm), 0, dtype=tools.precision
        ).to(self.device)

        @torch.no_grad()
        def compute(read: np.ndarray) -> torch.Tensor:
            frames = torch.from_numpy(read).to(self.device)
            if arm_name is None:
                return semantic_tokens(model, frames, tools.stream)
            return generator_states(model.model.generator, frames, tools.stream)

        kept.fill(data.frames_of, compute, tools.precision, self.deadline)
        self.tell({"streams": kept.folder.name, "split": split, "visuals": kept.count})
        return kept

    def streams(self, split: str, arm_name: str) -> Streams:
        semantic = self.fill_streams(split, None).open()
        if self.recipe.arms[arm_name].generator is None:
            return Streams(semantic, None)
        return Streams(semantic, self.fill_streams(split, arm_name).open())

    # Stage 1

    @property
    def vlm(self) -> Path:
        """Folder of the VLM that the arms begin with."""
        return (self.output / "stage0" if self.recipe.base is None else self.own / "base") / "model"

    def base(self) -> None:
        """Trains the VLM alone on spatial questions, if the recipe says so and it is not done."""
        if self.recipe.base is None or (self.vlm / "config.json").is_file():
            return
        folder, stage0 = self.vlm.parent, self.output / "stage0" / "model"
        names = ("rooms", "vlm", "stage0", "base", "categories", "precision")
        identity = {
            "recipe": self.recipe.digest(*names),
            "vlm": sha256(stage0 / "model.safetensors"),
            "device": self.device.type,
        }
        arm = ArmRecipe(fusion="none")
        model = arm_model(self.recipe, arm, stage0, self.generator_folder(arm), 0).to(self.device)
        seed = VLMRecipe(**self.recipe.vlm).seed
        make = PackMaker(self.tools(), self.data(TRAIN, 1), self.recipe.base, seed)
        streams = Streams(self.fill_streams(TRAIN, None).open(), None)
        heads = make_heads(model, self.tools(), seed)
        log = train_stage1(model, heads, make, streams, self.tools(), folder, identity)
        self.write_points(model, heads, Streams(self.fill_streams(VALIDATION, None).open(), None), folder)
        maps = SplitData(self.shards(VALIDATION), 1, MAP_KINDS)
        accuracy = bare_accuracy(model, maps, self.tools(), self.tools().stream)
        write_json(folder / "validation.json", accuracy)
        self.save_vlm(model, self.vlm)
        self.tell({"base": accuracy, "loss": log[-1]["loss"]})

    def write_points(self, model: VegaForSpatialReasoning, heads: Heads, streams: Streams, folder: Path) -> None:
        write_json(folder / POINTS, point_errors(model, heads, self.data(VALIDATION, 1), streams, self.tools()))

    def point_errors(self, arms: Sequence[str]) -> dict[str, np.ndarray]:
        """For each arm float[F, S, 4]: errors of its seeds on the validation scenes.

        Raises:
            ValueError: if a run is not finished.
        """
        files = {arm: [self.run_folder(arm, seed) / POINTS for seed in self.recipe.seeds] for arm in arms}
        missing = [str(file) for named in files.values() for file in named if not file.is_file()]
        if missing:
            raise ValueError(f"There is no {', '.join(missing)}. Train these arms and seeds first.")
        read = {arm: [json.loads(file.read_text(encoding="utf-8")) for file in named] for arm, named in files.items()}
        return {arm: np.array([list(of_seed.values()) for of_seed in runs]) for arm, runs in read.items()}

    def run_folder(self, arm_name: str, seed: int) -> Path:
        return self.own / "arms" / arm_name / f"seed{seed}"

    def result_file(self, split: str, arm_name: str, seed: int) -> Path:
        return self.own / "results" / split / f"{arm_name}-seed{seed}.json"

    def model_of(self, arm_name: str, seed: int) -> VegaForSpatialReasoning:
        """The arm's model as it is before stage 1."""
        arm = self.recipe.arms[arm_name]
        return arm_model(self.recipe, arm, self.vlm, self.generator_folder(arm), seed).to(self.device)

    def identity(self, arm_name: str, seed: int) -> dict:
        arm = self.recipe.arms[arm_name]
        names = (
            "rooms",
            "vlm",
            "stage0",
            "base",
            "stage1",
            "categories",
            "projector_hidden_size",
            "residual_init",
            "precision",
        )
        return {
            "recipe": self.recipe.digest(*names),
            "vlm": sha256(self.vlm / "model.safetensors"),
            "arm": {**asdict(arm), "generator": None if arm.generator is None else
                    generator_identity(arm, self.generator_folder(arm))},
            "seed": seed,
            "device": self.device.type,
        }  # fmt: skip

    def train_arm(self, arm_name: str) -> None:
        """All seeds of an arm."""
        missing = [n for n in self.recipe.seeds if not (self.run_folder(arm_name, n) / POINTS).is_file()]
        if not missing:
            return
        self.deadline.check(f"training of {arm_name}")
        self.base()
        tools, streams = self.tools(), self.streams(TRAIN, arm_name)
        make = PackMaker(tools, self.data(TRAIN, 1), self.recipe.stage1, 0)
        for seed in missing:
            self.deadline.check(f"training of {arm_name}, seed {seed}")
            model = self.model_of(arm_name, seed)
            folder = self.run_folder(arm_name, seed)
            heads = make_heads(model, tools, seed)
            log = train_stage1(model, heads, make.seeded(seed), streams, tools, folder, self.identity(arm_name, seed))
            self.write_points(model, heads, self.streams(VALIDATION, arm_name), folder)
            self.tell({"arm": arm_name, "seed": seed, **log[-1]})
        if not self.recipe.keep_hidden and self.recipe.arms[arm_name].generator is not None:
            shutil.rmtree(self.kept(TRAIN, arm_name).folder, ignore_errors=True)

    def evaluate_arm(self, arm_name: str, split: str) -> None:
        """Result files of all seeds of an arm on one split."""
        missing = [n for n in self.recipe.seeds if not self.result_file(split, arm_name, n).is_file()]
        if not missing:
            return
        tools, data, streams = self.tools(), self.data(split, 1), self.streams(split, arm_name)
        for seed in missing:
            self.deadline.check(f"evaluation of {arm_name}, seed {seed}, on {split}")
            folder = self.run_folder(arm_name, seed)
            model = self.model_of(arm_name, seed).eval()
            model.requires_grad_(False)
            load_arm(model, folder)

            def tokens_of(visuals: list[int], model=model, streams=streams) -> torch.Tensor:
                with tools.autocast():
                    return fused_rows(model, streams[visuals], tools)[0]

            settings = {"name": f"{self.recipe.name}/{arm_name}", "kind": "packed", "arm": arm_name, "seed": seed,
                        "split": split, "trained": sha256(folder / TRAINED), "precision": self.recipe.precision,
                        "notice": None}  # fmt: skip
            answerer = PackedAnswerer(model, tools.words, tools.stream.prefix, tokens_of, settings, tools.precision)
            output = self.result_file(split, arm_name, seed)
            output.parent.mkdir(parents=True, exist_ok=True)
            result = evaluate(answerer, data.records(), output, "rooms", batch_size=RECORDS_AT_A_TIME)
            figures = result["summary"]["official"]["figures"]
            self.tell({"evaluated": arm_name, "seed": seed, "split": split,
                       "macro": figures.get("macro", {}).get("score")})  # fmt: skip


def load_arm(model: VegaForSpatialReasoning, folder: Path) -> None:
    """Puts the weights of a finished run into the arm's model; raises ValueError if it is not finished."""
    if not (folder / RESULT).is_file():
        raise ValueError(f"{folder} holds no finished training. Train this arm and seed first.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_part(name) in ("llm", "projector", "gate"))
    load_trained(model, folder)
    model.requires_grad_(False)
