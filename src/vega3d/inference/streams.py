"""`StreamSession`: the two streams of a clip apart, so that one can be changed while the other stays as it is."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from vega3d.inference.encoding import EncodedClip, join_visuals, placed_tokens, semantic_tokens, with_features
from vega3d.inference.session import Session
from vega3d.inference.shared_pass import shared_inputs
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import RawAnswer, SpatialQuestion


class StreamSession(Session):
    """A session whose clips can be fused with other features than those of their own frames."""

    @torch.no_grad()
    def streams(self, clip: VideoClip) -> EncodedClip:
        """Both streams of sampled frames, not fused: `semantic`, and in `encoder` the generator's features.

        Errors are those of `Session.encode`. Nothing is held in memory.
        """
        question = SpatialQuestion(clip, "What is there?")
        inputs = self.processor.apply_chat_template(
            question.messages(), add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=len(clip)
        ).to(self.model.device)
        encoder = with_features(self.model, inputs, self.cache, None)
        semantic = semantic_tokens(self.model, "video", inputs)
        return replace(self._described(question, clip, inputs), semantic=semantic, encoder=encoder)

    @torch.no_grad()
    def fused(
        self, streams: EncodedClip, features: torch.Tensor | None, question: SpatialQuestion
    ) -> tuple[EncodedClip, torch.Tensor | None]:
        """A clip to ask about, and its gates float[t, h, w] (float[t, h, w, D] of `channel_gated`), if it has some.

        Args:
            streams: of `StreamSession.streams`.
            features: float[t, h, w, C] in place of the generator's own; None leaves the generative stream out.
            question: what is asked, for a fusion that reads it.
        """
        clip = replace(streams, encoder={})
        if features is None:
            return replace(clip, fused=placed_tokens(self.model, "video", streams.semantic, streams.encoder)), None
        prompt = self._tokenise([self._prompt(question, streams)])["input_ids"]
        inputs = {**streams.encoder, "generator_hidden_states": [features]}
        encoded = self.model.encode(prompt, **inputs, semantic={"video": streams.semantic}, output_gates=True)
        gates = encoded.gates["video"][0].float().cpu() if encoded.gates else None
        return replace(clip, fused=join_visuals([encoded.mm_encoder_outputs["video"]])), gates

    @torch.no_grad()
    def answer_about(
        self, clip: EncodedClip, questions: Sequence[SpatialQuestion], max_new_tokens: int | None = None
    ) -> list[RawAnswer]:
        """As `Session.answer_batch`, for questions about one clip of `fused`."""
        assert clip.fused is not None
        prompts = [self._prompt(question, clip) for question in questions]
        inputs = shared_inputs(self.model, self.processor, prompts, clip, clip.fused)
        return self._raw_answers(questions, inputs, max_new_tokens)
