"""A study from its recipe, stage after stage; what is done is not done again, so the same call goes on.

    OUT/rooms/{split}/...            frames and rows (`rooms.py`)
    OUT/vlm, OUT/tower               the untrained VLM; the VLM with the trained tower, and its training
    OUT/streams/{split}/{name}/...   the tower's tokens, and what each arm fuses with them
    OUT/NAME/arms/{arm}/seed{n}/...  the trainings
    OUT/NAME/results/{split}/{arm}-seed{n}.json   result files of the evaluation
    OUT/NAME/results/{split}/{wordings}/{arm}-seed{n}.json   the same questions as people type them (`held_out.py`)
    OUT/NAME/results/{split}/{benchmark}-{proposals}/{arm}-seed{n}.json   of a study that grounds (`found_boxes.py`)

Recipes with other names may share OUT, and with it rooms, tower and streams, where these are equal.
"""

import copy
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from research.tiny.study.answering import PackedAnswerer, TokensOf
from research.tiny.study.arms import arm_model, write_placeholder_generator, write_shuffled
from research.tiny.study.data import SplitData, Words
from research.tiny.study.found_boxes import WAYS, BoxAnswerer, baselines, grounding_records
from research.tiny.study.fusion_watch import is_void
from research.tiny.study.grounding import Expressions, add_ground_tokens
from research.tiny.study.held_out import PlainAnswerer, plain_questions
from research.tiny.study.loop import RESULT, TRAINED, Deadline
from research.tiny.study.name_alone import NameAlone
from research.tiny.study.network import fused_tokens
from research.tiny.study.packs import PackMaker, text_prefix
from research.tiny.study.points import ORACLE_CHANNELS, PointHead
from research.tiny.study.question_forms import PLAN_KINDS
from research.tiny.study.recipe import ORACLE, PIXELS, TEST_SPLITS, TRAIN, VALIDATION, ArmRecipe, Recipe
from research.tiny.study.rooms import RoomShards, make_rooms
from research.tiny.study.rows import TALK_KINDS
from research.tiny.study.streams import (
    AT_A_TIME,
    StoredStream,
    StreamRows,
    clip_format,
    generator_states,
    oracle_states,
    pixel_states,
    semantic_tokens,
)
from research.tiny.study.tower import PATCH, LabelHead
from research.tiny.study.train import (
    Batches,
    Reader,
    Streams,
    Tools,
    label_accuracy,
    point_errors,
    rows_of,
    train_arm,
    train_tower,
    width_of,
)
from research.tiny.study.vlm import VLMRecipe, write_vlm
from vega3d.evaluation.answerers import Answerer
from vega3d.evaluation.result_files import read_result
from vega3d.evaluation.run import AnyAnswerer, evaluate
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.files import read_json, whole_folder, write_json
from vega3d.hub.assemble import make_processor
from vega3d.modeling.files_vega3d import hash_files
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning, VegaTaskModel
from vega3d.runs import sha256
from vega3d.training.checkpoints import load_trained
from vega3d.training.parts import parameter_part

RECORDS_AT_A_TIME = 4096
POINTS = "points.json"  # of a run: `train.point_errors` of validation rooms
TRAINING = ("rooms", "vlm", "tower", "training", "categories", "answers", "projector_hidden_size", "residual_init")
WIDTHS = {PIXELS: 3 * PATCH**2, ORACLE: ORACLE_CHANNELS, None: 12}  # of the features of arms without a generator


class Experiment:
    """All stages of a study; `tell` is called with what happens, as plain values."""

    def __init__(
        self,
        recipe: Recipe,
        output: str | Path,
        device: str | torch.device = "cpu",
        deadline: Deadline | None = None,
        workers: int = 1,  # processes that make rooms
        furniture: Path | None = None,  # pack for `test_unseen`
        tell: Callable[[dict], None] = lambda values: None,
    ):
        self.recipe, self.output = recipe, Path(output)
        self.own = self.output / recipe.name
        self.device = torch.device(device)
        self.deadline, self.workers, self.furniture, self.tell = deadline or Deadline(), workers, furniture, tell
        self._data: dict[str, SplitData] = {}
        self._packs: dict[str, PackMaker] = {}
        self._expressions: dict[str, Expressions] = {}
        self._open: dict[tuple[str, str | None], StreamRows] = {}

    # Rooms

    @property
    def splits(self) -> list[str]:
        return [split for split in (TRAIN, VALIDATION, *TEST_SPLITS) if asdict(self.recipe.rooms)[split] > 0]

    def shards(self, split: str) -> RoomShards:
        rooms, is_train = self.recipe.rooms, split == TRAIN
        return RoomShards(
            self.output / "rooms",
            split,
            asdict(rooms)[split],
            rooms.first_test if split == "test" else 0,
            rooms.trajectories if is_train else 1,
            rooms.num_frames,
            rooms.size,
            rooms.training_questions_per_type if is_train else rooms.questions_per_type,
            is_train,
            rooms.renderer,
            rooms.quality,
            rooms.rooms_per_shard,
            self.furniture if split == "test_unseen" else None,
            rooms.with_grounding,
        )

    def make_rooms(self, splits: Sequence[str]) -> None:
        with closing(make_rooms([self.shards(split) for split in splits], self.workers)) as made:
            for shards, number, clips in made:  # closed, it calls off the shards not begun
                done, split = number + 1, shards.split
                self.tell({"rooms": split, "shard": done, "shards": len(shards), "clips": clips})
                self.deadline.check(f"rooms of {split}: {done} of {len(shards)} shards")

    def data(self, split: str) -> SplitData:
        if split not in self._data:
            self._data[split] = SplitData(self.shards(split), [*self.recipe.categories, *PLAN_KINDS, *TALK_KINDS])
        return self._data[split]

    def expressions(self, split: str) -> Expressions:
        """Of a study that grounds."""
        assert self.recipe.grounding is not None
        if split not in self._expressions:
            tools, tokenizer = self.tools, copy.deepcopy(self.tools.words.tokenizer)
            ground = add_ground_tokens(tokenizer)
            self._expressions[split] = Expressions(
                self.data(split), tools.words, tools.clip.prefix, self.recipe.grounding, ground
            )
        return self._expressions[split]

    # The VLM and its tower

    @cached_property
    def tools(self) -> Tools:
        vlm, rooms = self.output / "vlm", self.recipe.rooms
        if not (vlm / "config.json").is_file():
            write_vlm(VLMRecipe(**self.recipe.vlm), vlm)
        model = self.plain_model(vlm)
        processor = make_processor(vlm, model.config.generator_config, generator_max_area=rooms.size**2)
        words = Words(processor.tokenizer)
        clip = clip_format(model, processor, words, rooms.num_frames, rooms.size)
        return Tools(self.recipe, words, clip, text_prefix(words), self.device, self.deadline, self.tell)

    def plain_model(self, vlm: Path, dtype: torch.dtype = torch.float32) -> VegaForSpatialReasoning:
        """The VLM alone."""
        arm = ArmRecipe(fusion="none")
        return arm_model(self.recipe, arm, vlm, self.generator_folder(arm), 0, dtype)

    @property
    def vlm(self) -> Path:
        """Folder of the VLM that the arms begin with."""
        return self.output / "tower" / "model"

    def tower(self) -> None:
        """Trains the vision tower, unless it is there."""
        if (self.vlm / "config.json").is_file():
            return
        tools, folder = self.tools, self.vlm.parent
        identity = {
            "recipe": self.recipe.digest("rooms", "vlm", "tower", "precision"),
            "vlm": sha256(self.output / "vlm" / "model.safetensors"),
            "device": self.device.type,
        }
        model = self.plain_model(self.output / "vlm").to(self.device)
        vision = model.config.vlm_config.vision_config
        if vision.patch_size * vision.spatial_merge_size != PATCH:
            raise ValueError(
                f"vlm.patch is {vision.patch_size}, but a visual token must be {PATCH} px wide: {PATCH // 2}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(VLMRecipe(**self.recipe.vlm).seed)
            head = LabelHead(vision.out_hidden_size, vision.temporal_patch_size).to(self.device)
        log = train_tower(model, head, self.data(TRAIN), tools, folder, identity)
        accuracy = label_accuracy(model, head, self.data(VALIDATION), tools)
        write_json(folder / "validation.json", {"patch_class": accuracy})
        self.tell({"tower": accuracy, "loss": log[-1]["loss"]})
        with whole_folder(self.vlm) as partial_folder:
            model.model.vlm.save_pretrained(partial_folder)
            own = shutil.ignore_patterns("*.safetensors", "config.json")
            shutil.copytree(self.output / "vlm", partial_folder, ignore=own, dirs_exist_ok=True)

    # Frozen streams

    def generator_folder(self, arm: ArmRecipe) -> Path:
        if arm.stream in self.recipe.generators:
            source = Path(self.recipe.generators[arm.stream])
            return (
                write_shuffled(source, self.output / f"shuffled-{hash_files(source)[:16]}") if arm.shuffled else source
            )
        width = WIDTHS[arm.stream]
        folder = self.output / f"placeholder-{width}"
        write_placeholder_generator(folder, width)
        return folder

    def stored(self, split: str, arm_name: str | None) -> StoredStream:
        """The tower's tokens, or the stream of an arm; equal streams share one folder."""
        rooms = {**self.shards(split).settings, "precision": self.recipe.precision}
        if arm_name is None:
            identity = {"rooms": rooms, "vlm": sha256(self.vlm / "model.safetensors")}
            return StoredStream(self.output / "streams" / split / "semantic", len(self.data(split)), identity)
        identity = {"rooms": rooms, **self.stream_identity(self.recipe.arms[arm_name])}
        folder = self.output / "streams" / split / self.recipe.first_with_stream(arm_name)
        return StoredStream(folder, len(self.data(split)), identity)

    def stream_identity(self, arm: ArmRecipe) -> dict:
        """What an arm's stream depends on, beside the frames."""
        files = hash_files(self.generator_folder(arm)) if arm.stream in self.recipe.generators else None
        return {"stream": arm.stream, "files": files, "options": dict(sorted(arm.options.items()))}

    def fill(self, split: str, arm_name: str | None) -> StoredStream:
        """Computes a stream, unless it is there."""
        stored = self.stored(split, arm_name)
        if stored.is_whole:
            return stored
        tools, data = self.tools, self.data(split)
        stream = None if arm_name is None else self.recipe.arms[arm_name].stream
        if arm_name is None:
            model = self.plain_model(self.vlm, tools.precision).to(self.device)
        elif stream in self.recipe.generators:
            arm, vlm = self.recipe.arms[arm_name], self.output / "vlm"
            model = arm_model(self.recipe, arm, vlm, self.generator_folder(arm), 0, tools.precision).to(self.device)
            model.model.generator.config.chunk_frames = AT_A_TIME * self.recipe.rooms.num_frames

        @torch.no_grad()
        def compute(read: np.ndarray) -> torch.Tensor:
            values = torch.from_numpy(read).to(self.device)
            if arm_name is None:
                return semantic_tokens(model, values, tools.clip)
            if stream == PIXELS:
                return pixel_states(values, tools.clip)
            if stream == ORACLE:
                return oracle_states(values, tools.clip)
            return generator_states(model.model.generator, values, tools.clip)

        stored.fill(data.all_points if stream == ORACLE else data.frames, compute, tools.precision, self.deadline)
        self.tell({"stream": stored.folder.name, "split": split, "clips": stored.count})
        return stored

    def streams(self, split: str, arm_name: str) -> Streams:
        """Both streams on the device, where they stay until those of another arm are asked for."""
        self._open = {key: rows for key, rows in self._open.items() if key[1] in (None, arm_name)}
        names = [None, None if self.recipe.arms[arm_name].stream is None else arm_name]
        for name in names:
            if (split, name) not in self._open:
                self._open[split, name] = self.fill(split, name).open(self.device)
        semantic, hidden = (self._open[split, name] for name in names)
        return semantic, None if names[1] is None else hidden

    # Arms

    def run_folder(self, arm_name: str, seed: int) -> Path:
        return self.own / "arms" / arm_name / f"seed{seed}"

    def results_folder(self, split: str, wordings: str = "") -> Path:
        return self.own / "results" / split / wordings.replace(" ", "-")

    def result_file(self, split: str, arm_name: str, seed: int, wordings: str = "") -> Path:
        return self.results_folder(split, wordings) / f"{arm_name}-seed{seed}.json"

    def reader(self, arm_name: str, seed: int, start: Path | None = None) -> Reader:
        """The arm's model as it is before its training; all of it but the tower from the seed, or of a run `start`."""
        arm = self.recipe.arms[arm_name]
        model: VegaTaskModel = arm_model(self.recipe, arm, self.vlm, self.generator_folder(arm), seed)
        if self.recipe.grounding is not None:
            if start is not None:
                load_arm(model, start)
            tokenizer = copy.deepcopy(self.tools.words.tokenizer)
            options = {"position_code": arm.position_code, "grounding_head": self.recipe.grounding.head}
            model = VegaForVisualGrounding.from_reasoning(model, tokenizer, seed, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            points = PointHead(width_of(model))
        return Reader(model, points, self.tools).to(self.device)

    def start_folder(self, arm_name: str, seed: int) -> Path | None:
        """The run of another study that this one goes on with; raises ValueError if it is not finished."""
        grounding = self.recipe.grounding
        if grounding is None or grounding.start is None:
            return None
        folder = self.output / grounding.start / "arms" / self.recipe.first_with_stream(arm_name) / f"seed{seed}"
        check_finished(folder)
        return folder

    def grounding_identity(self, arm_name: str, seed: int) -> dict:
        """What a run depends on beside, in a study that grounds."""
        grounding, start = self.recipe.grounding, self.start_folder(arm_name, seed)
        if grounding is None:
            return {}
        code = self.recipe.arms[arm_name].position_code
        begun = None if start is None else sha256(start / TRAINED)
        return {"grounding": {**asdict(grounding), "position_code": code, "start": begun}}

    def identity(self, arm_name: str, seed: int) -> dict:
        arm = self.recipe.arms[arm_name]
        return {
            **self.grounding_identity(arm_name, seed),
            "recipe": self.recipe.digest(*TRAINING, "precision"),
            "vlm": sha256(self.vlm / "model.safetensors"),
            "arm": {"fusion": arm.fusion, **self.stream_identity(arm)},
            "seed": seed,
            "device": self.device.type,
        }

    def batches(self, split: str, arm_name: str) -> Batches:
        """What trainings of an arm see of a split."""
        expressions = None if self.recipe.grounding is None else self.expressions(split)
        if split not in self._packs:
            tools, packs, in_words = self.tools, self.recipe.training.packs, self.recipe.answers == "words"
            first = None if expressions is None else expressions.first
            self._packs[split] = PackMaker(self.data(split), tools.words, tools.clip.prefix, packs, in_words, 0, first)
        return Batches(self._packs[split], self.streams(split, arm_name), self.tools.clip.temporal, expressions)

    def train_arm(self, arm_name: str, seeds: Sequence[int] | None = None) -> None:
        """Some seeds of an arm, all by default, as in the methods below."""
        seeds = self.recipe.seeds if seeds is None else seeds
        missing = [seed for seed in seeds if not (self.run_folder(arm_name, seed) / POINTS).is_file()]
        if not missing:
            return
        self.deadline.check(f"training of {arm_name}")
        starts = {seed: self.start_folder(arm_name, seed) for seed in missing}
        train, validation = self.batches(TRAIN, arm_name), self.batches(VALIDATION, arm_name)
        for seed in missing:
            self.deadline.check(f"training of {arm_name}, seed {seed}")
            folder, reader = self.run_folder(arm_name, seed), self.reader(arm_name, seed, starts[seed])
            train.make.seeded(seed)
            log = train_arm(reader, train, validation, folder, self.identity(arm_name, seed))
            write_json(folder / POINTS, point_errors(reader, self.data(VALIDATION), validation.streams))
            self.tell({"arm": arm_name, "seed": seed, **log[-1]})

    def evaluate_arm(self, arm_name: str, split: str, wordings: str = "", seeds: Sequence[int] | None = None) -> None:
        """Result files of an arm on one split, in VSI-Bench's words or those of `held_out.CONDITIONS`."""
        seeds = self.recipe.seeds if seeds is None else seeds
        files = {seed: self.result_file(split, arm_name, seed, wordings) for seed in seeds}
        missing = [seed for seed, file in files.items() if not file.is_file()]
        if not missing:
            return
        tools, data, streams = self.tools, self.data(split), self.streams(split, arm_name)
        for seed in missing:
            self.deadline.check(f"evaluation of {arm_name}, seed {seed}, on {split}")
            model, tokens_of, settings = self.finished(arm_name, seed, split, streams)
            packed = PackedAnswerer(model, tools.words, tools.clip.prefix, tokens_of, settings, tools.precision)
            answerer: Answerer = packed
            asked: Sequence[AnnotatedQuestion] = data.records()
            if wordings:
                asked = plain_questions(asked, wordings)
                answerer = PlainAnswerer(packed, asked, wordings)
            files[seed].parent.mkdir(parents=True, exist_ok=True)
            result = evaluate(answerer, asked, files[seed], "rooms", batch_size=RECORDS_AT_A_TIME)
            scores = {name: value["score"] for name, value in result["summary"]["official"]["figures"].items()}
            self.tell({"evaluated": arm_name, "seed": seed, "split": split, "wordings": wordings, **scores})

    def finished(self, arm_name: str, seed: int, split: str, streams: Streams) -> tuple[VegaTaskModel, TokensOf, dict]:
        """The model of a finished run, the fused tokens of a split's clips, and settings for result files."""
        tools, folder = self.tools, self.run_folder(arm_name, seed)
        model = self.reader(arm_name, seed).model.eval()
        load_arm(model, folder)

        def tokens_of(clips: list[int]) -> torch.Tensor:
            with tools.autocast():
                return fused_tokens(model, *rows_of(streams, clips), tools.clip.prefix)[0]

        settings = {
            "name": f"{self.recipe.name}/{arm_name}",
            "kind": "packed",
            "arm": arm_name,
            "seed": seed,
            "split": split,
            "trained": sha256(folder / TRAINED),
            "precision": self.recipe.precision,
            "notice": None,
        }
        return model, tokens_of, settings

    def ground_arm(self, arm_name: str, split: str, seeds: Sequence[int] | None = None) -> None:
        """Result files of the boxes that an arm finds, by task and source of proposals."""
        for seed in self.recipe.seeds if seeds is None else seeds:
            files = {way: self.result_file(split, arm_name, seed, " ".join(way)) for way in WAYS}
            if all(file.is_file() for file in files.values()):
                continue
            self.deadline.check(f"grounding of {arm_name}, seed {seed}, on {split}")
            streams, scores = self.streams(split, arm_name), {}
            model, tokens_of, settings = self.finished(arm_name, seed, split, streams)
            assert isinstance(model, VegaForVisualGrounding)
            for way, file in files.items():
                answerer = BoxAnswerer(model, self.expressions(split), self.tools, tokens_of, settings, *way)
                result = self.evaluate_boxes(answerer, split, *way, file)
                main, *_ = result["summary"].values()
                scores[" ".join(way)] = main["figures"]["overall"]["score"]
            self.tell({"grounded": arm_name, "seed": seed, "split": split, **scores})

    def evaluate_boxes(self, answerer: AnyAnswerer, split: str, benchmark: str, source: str, output: Path) -> dict:
        output.parent.mkdir(parents=True, exist_ok=True)
        records = grounding_records(self.data(split), benchmark, source)
        return evaluate(answerer, records, output, benchmark, batch_size=RECORDS_AT_A_TIME)

    def grounding_baselines(self, split: str, benchmark: str, source: str) -> dict[str, dict]:
        """Results of `found_boxes.baselines`."""
        folder = self.results_folder(split, f"{benchmark} {source}")
        return {
            name: self.evaluate_boxes(answerer, split, benchmark, source, folder / f"{name}.json")
            for name, answerer in baselines(benchmark, source).items()
        }

    def name_alone(self, split: str) -> dict:
        """Result of what the names in the questions of a split give away, learnt from the rows of `train`."""
        output = self.results_folder(split) / "name-alone.json"
        if output.is_file():
            return read_result(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        train, asked = self.data(TRAIN).records(), self.data(split).records()
        return evaluate(NameAlone(train), asked, output, "rooms", batch_size=RECORDS_AT_A_TIME)

    def point_errors(self, arms: Sequence[str]) -> dict[str, np.ndarray]:
        """For each arm float[F, S, 4]: errors of its seeds on the validation scenes.

        Raises:
            ValueError: if a run is not finished.
        """
        files = {arm: [self.run_folder(arm, seed) / POINTS for seed in self.recipe.seeds] for arm in arms}
        missing = [str(file) for named in files.values() for file in named if not file.is_file()]
        if missing:
            raise ValueError(f"There is no {', '.join(missing)}. Train these arms and seeds first.")
        return {arm: np.array([list(read_json(file).values()) for file in named]) for arm, named in files.items()}

    def void_runs(self, arms: Sequence[str]) -> dict[str, dict[int, dict]]:
        """Of each arm with runs whose fusion is not heard at the end, the last lines of their logs by seed."""
        last = {
            arm: {seed: read_json(self.run_folder(arm, seed) / RESULT)["log"][-1] for seed in self.recipe.seeds}
            for arm in arms
        }
        void = {arm: {seed: entry for seed, entry in runs.items() if is_void(entry)} for arm, runs in last.items()}
        return {arm: runs for arm, runs in void.items() if runs}


def load_arm(model: VegaTaskModel, folder: Path) -> None:
    """Puts the weights of a finished run into the arm's model; raises ValueError if it is not finished."""
    check_finished(folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_part(name) in ("llm", "projector", "gate", "ground"))
    load_trained(model, folder)
    model.requires_grad_(False)


def check_finished(folder: Path) -> None:
    if not (folder / RESULT).is_file():
        raise ValueError(f"{folder} holds no finished training. Train this arm and seed first.")
