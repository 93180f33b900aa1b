"""Two answers of one model to one question about a video: with the world simulator, and without."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vega3d.inference.answer import Answer
from vega3d.inference.clip_encoder import Progress
from vega3d.inference.encoding import EncodedClip
from vega3d.inference.gate_figure import gate_scale
from vega3d.inference.session import MAX_NEW_TOKENS, Session
from vega3d.questions import SpatialQuestion


@dataclass(frozen=True)
class Comparison:
    """The two answers as far as they are made.

    Attributes:
        clip: the encoded video, with frames and gates.
        encoding_seconds: time taken to read and encode the video [s].
        was_stored: whether the video was encoded for an earlier question.
        fused: answer with the world simulator.
        semantic: answer without.
    """

    clip: EncodedClip
    encoding_seconds: float
    was_stored: bool
    fused: Answer = field(default_factory=Answer)
    semantic: Answer = field(default_factory=Answer)


class Comparer:
    """Asks the same weights twice. Without the world simulator the VLM's own visual tokens go on unfused."""

    def __init__(self, session: Session):
        if session.model.config.fusion == "none":
            raise ValueError("The model has fusion='none', no world simulator to compare with. Give another model.")
        self.session = session

    def compare(
        self, question: SpatialQuestion, max_new_tokens: int = MAX_NEW_TOKENS, on_progress: Progress = None
    ) -> Iterator[Comparison]:
        """Yields what is there so far: first the clip, then one answer growing, then the other.

        Arguments and errors are those of `Session.answer`; a gate that is not finite is an error, too.
        """
        start = time.perf_counter()
        question = self.session.posed(question)
        was_stored = self.session.is_encoded(question)
        clip = self.session.encode(
            question, with_semantic=True, with_frames=True, output_gates=True, on_progress=on_progress
        )
        if clip.gates is not None:
            gate_scale(clip.gates.numpy())  # refuses NaN, which no picture shows
        state = Comparison(clip, time.perf_counter() - start, was_stored)
        yield state
        for answer in self.session.stream(question, max_new_tokens=max_new_tokens):
            state = replace(state, fused=answer)
            yield state
        for answer in self.session.stream(question, with_generator=False, max_new_tokens=max_new_tokens):
            state = replace(state, semantic=answer)
            yield state
