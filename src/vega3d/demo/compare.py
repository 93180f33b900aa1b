"""Two answers of one model to one question about a video: with the world simulator, and without."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import numpy as np
import torch
import xxhash
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import ModelOutput

from vega3d.evaluation.visuals import LANGUAGE_INPUTS, fused_tokens, join_visuals
from vega3d.features.cache import FeatureCache
from vega3d.features.clips import sampled_clip
from vega3d.hub.gate_figure import gate_scale
from vega3d.modeling.fusion_vega3d import FUSIONS, ONE_GATE_A_TOKEN
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.questions import SpatialQuestion, checked_logits, letter_probabilities

MAX_NEW_TOKENS = 64
SHOWN_WIDTH = 384  # of the frames kept for the gate maps [px]


@dataclass(frozen=True)
class Reply:
    """
    Args:
        text: the answer so far; for a choice its letter and text.
        options: probability of each letter among the options, or None for an open question.
        seconds: time taken [s], once it is whole; None before.
    """

    text: str = ""
    options: dict[str, float] | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Scene:
    """A video as the model sees it, encoded once for all questions about it.

    Args:
        frames: uint8[T, H, W, 3] small, for pictures, with the boxes of a marked question.
        seconds: time of each frame [s].
        text: what the processor writes into a prompt for the video.
        language: what the language model reads beside the tokens.
        semantic: tokens of the VLM alone.
        fused: tokens of both streams; None if the fusion reads the question.
        encoder: inputs of `encode` for such a fusion, with the generator's features; else empty.
        gates: float[t, h, w], or None if the fusion has not one gate for each token.
    """

    frames: np.ndarray
    seconds: list[float]
    text: str
    language: dict[str, torch.Tensor]
    semantic: ModelOutput
    fused: ModelOutput | None
    encoder: dict
    gates: torch.Tensor | None


@dataclass(frozen=True)
class Comparison:
    """The two answers as far as they are made.

    Args:
        scene: frames and gates.
        seconds_of_scene: time taken to read and encode the video [s].
        was_kept: whether the video was encoded for an earlier question.
        fused: answer with the world simulator.
        semantic: answer without.
    """

    scene: Scene
    seconds_of_scene: float
    was_kept: bool
    fused: Reply = field(default_factory=Reply)
    semantic: Reply = field(default_factory=Reply)


class Comparer:
    """Asks the same weights twice. Without the world simulator the VLM's own visual tokens go on unfused.

    Args:
        model: loaded, in eval mode.
        processor: of the model.
        cache: of the generator's features on disk, in which they are looked up and kept.
        num_frames: frames sampled evenly; the processor's default if None.
        kept_scenes: encoded videos held in memory for further questions; those used longest ago go first.

    Raises:
        ValueError: if the model has no world simulator.
    """

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        processor: VegaProcessor,
        cache: FeatureCache | None = None,
        num_frames: int | None = None,
        kept_scenes: int = 8,
    ):
        if model.config.fusion == "none":
            raise ValueError("The model has fusion='none', no world simulator to compare with. Give another model.")
        self.model, self.processor, self.cache = model, processor, cache
        self.num_frames = num_frames or processor.num_frames
        self.kept_scenes = kept_scenes
        self._scenes: OrderedDict[tuple, Scene] = OrderedDict()

    def compare(
        self,
        question: SpatialQuestion,
        max_new_tokens: int = MAX_NEW_TOKENS,
        on_frames: Callable[[int], None] | None = None,
    ) -> Iterator[Comparison]:
        """Yields what is there so far: first the scene, then one answer growing, then the other.

        Args:
            question: its `visual` is the path of a video.
            max_new_tokens: of an open answer.
            on_frames: called with a number of frames when the generator has done them.

        Raises:
            ValueError: if the video cannot be read, or the question holds placeholders of videos.
        """
        start = time.perf_counter()
        self.prompt(question, self.processor.video_token)
        scene, was_kept = self.scene(question, on_frames)
        state = Comparison(scene, time.perf_counter() - start, was_kept)
        yield state
        for reply in self.replies(question, scene, True, max_new_tokens):
            state = replace(state, fused=reply)
            yield state
        for reply in self.replies(question, scene, False, max_new_tokens):
            state = replace(state, semantic=reply)
            yield state

    def scene(self, question: SpatialQuestion, on_frames: Callable[[int], None] | None = None) -> tuple[Scene, bool]:
        """The encoded video of a question, and whether it was kept from an earlier one."""
        content = xxhash.xxh3_128_hexdigest(Path(question.visual).read_bytes())
        key = (content, question.frame, tuple(question.marks))
        kept = self._scenes.pop(key, None)
        scene = self.encoded(question, on_frames) if kept is None else kept
        self._scenes[key] = scene
        while len(self._scenes) > self.kept_scenes:
            self._scenes.popitem(last=False)
        return scene, kept is not None

    @torch.no_grad()
    def encoded(self, question: SpatialQuestion, on_frames: Callable[[int], None] | None = None) -> Scene:
        clip = sampled_clip(question.visual, self.num_frames, None, question.frame, question.marks)
        inputs = self.processor.apply_chat_template(
            SpatialQuestion(clip, question.question).messages(),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            num_frames=len(clip),
        ).to(self.model.device)
        fusion = self.model.config.fusion
        encoder = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        if self.cache is not None:
            encoder = self.cache.fill(self.model, encoder, on_frames)
        else:
            generator = {name: encoder[name] for name in ("generator_pixel_values_videos", "generator_video_grid_thw")}
            features = self.model.model.generator_features(**generator, on_progress=on_frames)
            encoder["generator_hidden_states"] = features
            del encoder["generator_pixel_values_videos"]
        grid = inputs["video_grid_thw"]
        semantic = self.model.model.vlm.get_video_features(inputs["pixel_values_videos"], grid, return_dict=True)
        fused = self.model.encode(inputs["input_ids"], **encoder, output_gates=True)
        reads_question = FUSIONS[fusion].needs_instruction
        gates = fused.gates["video"][0].float().cpu() if fused.gates and fusion in ONE_GATE_A_TOKEN else None
        if gates is not None:
            gate_scale(gates.numpy())  # refuses NaN, which no picture shows
        return Scene(
            frames=small(clip.frames),
            seconds=[float(second) for second in clip.seconds],
            text=self.processor.video_text(clip, grid[0]),
            language={name: torch.as_tensor(inputs[name]) for name in LANGUAGE_INPUTS if name in inputs},
            semantic=join_visuals([semantic]),
            fused=None if reads_question else join_visuals([fused.mm_encoder_outputs["video"]]),
            encoder=encoder if reads_question else {},
            gates=gates,
        )

    def replies(
        self, question: SpatialQuestion, scene: Scene, with_simulator: bool, max_new_tokens: int
    ) -> Iterator[Reply]:
        """The answer as it grows, on the fused tokens or on the VLM's own; greedy."""
        start = time.perf_counter()
        inputs = self.inputs(question, scene, with_simulator)
        reply = Reply()
        if question.options:
            reply = self.choice(question, inputs)
        else:
            for piece in self.pieces(inputs, max_new_tokens):
                reply = Reply(reply.text + piece)
                yield reply
        yield replace(reply, text=reply.text.strip(), seconds=time.perf_counter() - start)

    @torch.no_grad()
    def inputs(self, question: SpatialQuestion, scene: Scene, with_simulator: bool) -> dict:
        tokens = self.processor.tokenizer([self.prompt(question, scene.text)], return_tensors="pt")
        inputs = {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        visual = scene.fused if with_simulator else scene.semantic
        if visual is None:
            visual = fused_tokens(self.model, scene.encoder, inputs["input_ids"])
        return {**inputs, **scene.language, "mm_encoder_outputs": {"video": visual}}

    def prompt(self, question: SpatialQuestion, video_text: str) -> str:
        """The conversation as text, with what the processor writes for the video."""
        content = [{"type": "video"}, {"type": "text", "text": question.prompt}]
        messages = [{"role": "user", "content": content}]
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        placeholder = self.processor.video_token
        if prompt.count(placeholder) != 1 or self.processor.image_token in prompt:
            raise ValueError("The question holds placeholders of images or videos. Reword it.")
        return prompt.replace(placeholder, video_text)

    @torch.no_grad()
    def choice(self, question: SpatialQuestion, inputs: dict) -> Reply:
        logits = self.model(**inputs, logits_to_keep=1).logits[0, -1]  # float[V]
        options = letter_probabilities(logits, question.letters, self.processor.tokenizer)
        best = max(options, key=options.__getitem__)
        return Reply(f"{best}. {question.options[question.letters.index(best)]}", options)

    def pieces(self, inputs: dict, max_new_tokens: int) -> Iterator[str]:
        """Pieces of an open answer as they are made; one who stops listening stops the model."""
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = StopOnRequest()

        def generate() -> None:
            try:
                self.model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    streamer=streamer,
                    logits_processor=checked_logits(),
                    stopping_criteria=StoppingCriteriaList([stop]),
                )
            finally:
                streamer.end()

        with ThreadPoolExecutor(1) as worker:
            made = worker.submit(generate)
            try:
                yield from streamer
            finally:
                stop.requested.set()
            made.result()


class StopOnRequest(StoppingCriteria):
    def __init__(self):
        self.requested = Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), self.requested.is_set(), device=input_ids.device)


def small(frames: np.ndarray) -> np.ndarray:
    """uint8[T, h, w, 3], at most `SHOWN_WIDTH` wide."""
    height, width = frames.shape[1:3]
    if width <= SHOWN_WIDTH:
        return frames
    size = (SHOWN_WIDTH, max(1, round(height * SHOWN_WIDTH / width)))
    return np.stack([np.array(Image.fromarray(frame).resize(size)) for frame in frames])
