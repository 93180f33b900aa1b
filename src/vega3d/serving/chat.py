"""`VegaChat`: the handler of transformers' server for chat completions, on a session that encodes a clip once."""

import asyncio
import copy
import json
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent import futures
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar

from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.utils import GenerationState, Modality

from vega3d.inference.encoding import EncodedClip
from vega3d.inference.session import Session
from vega3d.serving.answers import GeneratedAnswer, generate, stopped
from vega3d.serving.requests import ChatRequest, read_request
from vega3d.serving.settings import ApiError, ServerSettings
from vega3d.serving.visuals import Finder, Shown

logger = logging.getLogger(__name__)
DEFAULT_TOKENS = 512  # of an answer, if the request does not say
READERS = 2  # requests whose visuals are read at a time, beside the one that the model works on
REST_SECONDS = 10.0  # that the model may take to end its token when the server ends
DONE = "data: [DONE]\n\n"
Result = TypeVar("Result")


class Prepared(NamedTuple):
    """What the model is run on for one request."""

    inputs: dict
    config: GenerationConfig
    prompt_tokens: int


class VegaChat(ChatCompletionHandler):
    """Answers chat requests with one loaded model, one at a time, in the order in which their visuals are read.

    Of transformers' handler are the form of messages and answers, the thread that the model runs on, and the streamer.
    Checks, visuals, sampling, stop texts and the ends of streams are ours: theirs drop what they do not know, fetch
    any address, and set a seed while another request is being answered.

    Args:
        session: with the model, and the memory of encoded visuals.
        settings: what is allowed, and the model's name in requests.
        finder: of visuals; by default one that follows the settings.
    """

    def __init__(self, session: Session, settings: ServerSettings, finder: Finder | None = None):
        super().__init__(model_manager=None, generation_state=GenerationState())
        self.session, self.settings = session, settings
        self.finder = Finder(session, settings) if finder is None else finder
        self.worker = self.generation_state.get_manager(settings.name)
        self.readers = asyncio.Semaphore(READERS)
        self.answers: set[GeneratedAnswer] = set()
        self.jobs: set[object] = set()
        self.stopping = Event()
        tokenizer, processor = session.processor.tokenizer, session.processor
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.reserved = frozenset({*special, processor.image_token, processor.video_token})
        self.placeholders = {processor.image_token: "image", processor.video_token: "video"}
        self.context = session.model.config.get_text_config().max_position_embeddings

    async def handle_request(self, body: Any, request_id: str) -> StreamingResponse | JSONResponse:
        """The answer to a request, whole or as a stream; raises ApiError before anything is sent."""
        asked = read_request(body, self.reserved)
        if asked.model != self.settings.name:
            raise ApiError(
                404,
                f"There is no model {asked.model[:200]!r} here. The model is {self.settings.name!r}.",
                "model_not_found",
                "model",
            )
        if asked.limit is not None and asked.limit >= self.context:  # before any visual is read
            words = (
                f"max_tokens is {asked.limit}, but the model takes {self.context} tokens with the prompt. Lower it."
            )
            raise ApiError(400, words, "context_length_exceeded", "max_tokens")
        with tempfile.TemporaryDirectory(prefix="vega3d-serve-") as folder:
            async with self.readers:
                read = self.counted(lambda: self.finder.read(list(asked.visuals), Path(folder)))
                shown = await to_its_end(asyncio.ensure_future(asyncio.to_thread(read)))
            prepared = await self.on_model(lambda: self.prepare(asked, shown))
        if asked.stream:
            return StreamingResponse(self.events(asked, prepared, request_id), media_type="text/event-stream")
        return await self.whole(asked, prepared, request_id)

    async def on_model(self, job: Callable[[], Result]) -> Result:
        """Runs a job on the model's thread; one whose request has gone by then is not begun."""
        gone = Event()

        def unless_gone() -> Any:
            return None if gone.is_set() or self.stopping.is_set() else job()

        try:
            result = await to_its_end(asyncio.wrap_future(self.worker.submit(self.counted(unless_gone))))
        except asyncio.CancelledError:
            gone.set()
            raise
        if self.stopping.is_set():
            raise stopped()
        return result

    def counted(self, job: Callable[[], Result]) -> Callable[[], Result]:
        """The job, which counts among `jobs` until it has ended, also if its request goes before."""
        mark = object()
        self.jobs.add(mark)

        def run() -> Result:
            try:
                return job()
            finally:
                self.jobs.discard(mark)

        return run

    def stop(self) -> None:
        """Ends the answers in progress; what waits is refused."""
        self.stopping.set()
        for answer in self.answers:
            answer.cancel()

    def rest(self) -> None:
        """Waits until the model's thread has nothing to do, since a process must not end in the midst of its work."""
        futures.wait([self.worker.submit(int)], REST_SECONDS)

    # --- on the model's thread ---

    def prepare(self, asked: ChatRequest, shown: Sequence[Shown]) -> Prepared:
        """Encodes what is not in memory, and checks the length; raises ApiError if the request cannot be answered."""
        try:
            clips = [self.session.encode(visual.asked, frames=visual.frames) for visual in shown]
            inputs, _ = self.session.language_inputs([self.prompt(asked, clips)], [clips])
        except ValueError as error:
            raise ApiError(400, str(error), "invalid_value", "messages") from error
        length = inputs["input_ids"].shape[1]
        wanted = min(DEFAULT_TOKENS, max(1, self.context - length)) if asked.limit is None else asked.limit
        self.check_length(length, wanted)
        return Prepared(inputs, self.sampling(asked, wanted), length)

    def check_length(self, prompt: int, answer: int) -> None:
        if prompt + answer > self.context:
            raise ApiError(
                400,
                f"The prompt has {prompt} tokens and the answer may have {answer}, but the model takes {self.context} "
                "together. Shorten the conversation, or lower max_tokens.",
                "context_length_exceeded",
                "max_tokens" if prompt < self.context else "messages",
            )

    def prompt(self, asked: ChatRequest, clips: Sequence[EncodedClip]) -> str:
        """The conversation as text, with what stands for each visual in its place."""
        plain = [message.model_dump() for message in asked.messages]
        messages = self.get_processor_inputs_from_messages(plain, Modality.VLM)
        text = self.session.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        pieces = re.split("|".join(f"({re.escape(token)})" for token in self.placeholders), text)
        pieces = [piece for piece in pieces if piece is not None]
        if [self.placeholders[piece] for piece in pieces if piece in self.placeholders] != [c.kind for c in clips]:
            raise ValueError("The model's chat template has no place for an image or video where the request has one.")
        left = iter(clips)
        return "".join(next(left).text if piece in self.placeholders else piece for piece in pieces)

    def sampling(self, asked: ChatRequest, max_new_tokens: int) -> GenerationConfig:
        """The model's own generation settings with those of the request; greedy unless it gives a temperature."""
        config = copy.deepcopy(self.session.model.generation_config)
        config.max_new_tokens, config.num_beams = max_new_tokens, 1
        config.do_sample = bool(asked.temperature)
        config.temperature, config.top_p, config.top_k = 1.0, 1.0, 0
        if config.do_sample:
            config.temperature = asked.temperature
            config.top_p = 1.0 if asked.top_p is None else asked.top_p
        return config

    # --- answers ---

    def begin(self, asked: ChatRequest, prepared: Prepared) -> GeneratedAnswer:
        """An answer that the model's thread makes when its turn comes."""
        ends = prepared.config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        answer = GeneratedAnswer(self.session.processor.tokenizer, asked.stop, ends)
        self.answers.add(answer)

        def run() -> None:
            answer.run(lambda: generate(self.session, prepared.inputs, prepared.config, asked.seed, answer))

        self.worker.submit(self.counted(run))
        return answer

    def end(self, answer: GeneratedAnswer) -> None:
        """Lets the model stop, if it has not ended."""
        answer.cancel()
        self.answers.discard(answer)

    async def whole(self, asked: ChatRequest, prepared: Prepared, request_id: str) -> JSONResponse:
        answer = self.begin(asked, prepared)
        try:
            text = "".join([piece async for piece in answer.text()])
        finally:
            self.end(answer)
        completion = self._build_completion(
            request_id, text, self.settings.name, answer.reason, usage(prepared, answer)
        )
        return JSONResponse({**completion, "notice": self.session.model.config.notice})

    async def events(self, asked: ChatRequest, prepared: Prepared, request_id: str) -> AsyncIterator[str]:
        """The answer as server-sent events; one who stops listening stops it."""
        name = self.settings.name
        answer = self.begin(asked, prepared)
        try:
            yield self._build_chunk_sse(request_id, model=name, role="assistant", content="")
            async for piece in answer.text():
                yield self._build_chunk_sse(request_id, model=name, content=piece)
            yield self._build_chunk_sse(request_id, model=name, finish_reason=answer.reason)
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield self.chunk_to_sse(self.usage_chunk(request_id, usage(prepared, answer)))
            yield DONE
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.exception("An answer ended with a fault.")
            yield f"data: {json.dumps(failure(error).body)}\n\n"
        finally:
            self.end(answer)

    def usage_chunk(self, request_id: str, used: CompletionUsage) -> ChatCompletionChunk:
        """The last chunk of a stream that was asked for its usage: it has no choices."""
        now = int(time.time())
        return ChatCompletionChunk(
            id=request_id,
            created=now,
            model=self.settings.name,
            choices=[],
            usage=used,
            object="chat.completion.chunk",
        )


async def to_its_end(work: asyncio.Future[Result]) -> Result:
    """What is awaited; who is cancelled leaves it running. The model's thread would end with a future that was."""
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(work)


def usage(prepared: Prepared, answer: GeneratedAnswer) -> CompletionUsage:
    prompt, made = prepared.prompt_tokens, answer.total_tokens
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)


def failure(error: Exception) -> ApiError:
    """What a client is told of a fault of the server; the rest is in its log."""
    if isinstance(error, ApiError):
        return error
    said = str(error) if isinstance(error, ValueError) else f"The server failed ({type(error).__name__})."
    return ApiError(500, f"{said} Its log says more.", "server_error")
