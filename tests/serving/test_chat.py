"""Answers of the server: as the model gives them, as a stream, to several at once, with the options of a request."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import openai
import pytest
import torch
from PIL import Image

from serving.serving_client import data_url, image, served, video, wait_until
from vega3d.inference.session import Session
from vega3d.processing.video_vega3d import read_video
from vega3d.serving.requests import Visual
from vega3d.shipped import example_clip

FRAMES = 4


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8))


def png(seed: int) -> bytes:
    content = BytesIO()
    picture(seed).save(content, "PNG")
    return content.getvalue()


ROOM = video(data_url(example_clip("room"), "video/mp4"))
VIEW = image(data_url(png(1), "image/png"))


@pytest.fixture(scope="module")
def session(tiny) -> Session:
    return Session(*tiny, num_frames=FRAMES)


@pytest.fixture(scope="module")
def server(session):
    with served(session, max_requests=9) as running:
        yield running


def by_hand(session: Session, messages: list[dict], tokens: int) -> tuple[str, int]:
    """The answer through the processor and `generate` alone, and the length of the prompt."""
    inputs = session.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=FRAMES
    )
    made = session.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return session.processor.decode(made[0, length:], skip_special_tokens=True), length


def same(sent: str, whole: str) -> bool:
    """Whether a text was sent, but for the beginning of a letter whose other bytes never came."""
    return sent.rstrip("�") == whole.rstrip("�") and len(sent) <= len(whole)


def test_a_conversation_about_several_visuals_is_answered_as_the_model_answers_it(server, session):
    clip = read_video(example_clip("room"), FRAMES)
    sent = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [VIEW, {"type": "text", "text": "What?"}, ROOM]},
        {"role": "assistant", "content": "A room."},
        {"role": "user", "content": [image(data_url(png(2), "image/png")), {"type": "text", "text": "And this?"}]},
    ]
    shown = [
        sent[0],
        {"role": "user", "content": [{"type": "image", "image": picture(1)}, sent[1]["content"][1],
                                     {"type": "video", "video": clip}]},
        sent[2],
        {"role": "user", "content": [{"type": "image", "image": picture(2)}, sent[3]["content"][1]]},
    ]  # fmt: skip
    whole, length = by_hand(session, shown, 8)

    answer = server.client().chat.completions.create(model="tiny", messages=sent, max_tokens=8)

    assert same(answer.choices[0].message.content, whole) and len(whole) > 2
    assert answer.usage.prompt_tokens == length
    assert answer.usage.completion_tokens == 8 and answer.usage.total_tokens == length + 8
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_is_the_whole_answer_and_ends_with_its_usage(server):
    whole = server.ask(ROOM, "Where?")

    chunks = list(server.ask(ROOM, "Where?", stream=True, stream_options={"include_usage": True}))

    *answered, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answered) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in answered] == [None] * (len(answered) - 1) + ["length"]
    assert last.choices == [] and last.usage == whole.usage
    assert not any(chunk.usage for chunk in server.ask(ROOM, "Where?", stream=True))


def test_clients_at_once_get_the_answers_that_they_get_one_at_a_time(server):
    asked = [(ROOM if number % 2 else VIEW, f"Question {number}?") for number in range(8)]
    alone = [server.ask(*parts).choices[0].message.content for parts in asked]

    def streamed(parts) -> str:
        chunks = server.ask(*parts, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(streamed, asked))

    assert together == alone
    assert len(set(alone)) > 4


def test_a_clip_is_read_and_encoded_once(server, tmp_path):
    server.ask(ROOM, "Where?")

    [shown] = server.chat.finder.read([Visual("video", ROOM["video_url"]["url"], "here")], tmp_path)

    assert shown.frames is None and server.chat.session.is_encoded(shown.asked)


def test_sampling_follows_its_seed_whoever_else_asks(server):
    def sampled(seed: int) -> str:
        answer = server.ask(VIEW, "What?", seed=seed, temperature=1.5, top_p=0.9)
        return answer.choices[0].message.content

    alone = [sampled(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as clients:
        together = list(clients.map(sampled, range(4)))

    assert together == alone and len(set(alone)) == 4
    wait_until(lambda: not server.chat.jobs)
    state = torch.manual_seed(99).get_state()
    sampled(0)
    wait_until(lambda: not server.chat.jobs)
    assert torch.equal(torch.get_rng_state(), state)  # one who gives no seed is not given another's
    assert server.ask(VIEW, "What?", temperature=0).choices == server.ask(VIEW, "What?").choices


def test_a_text_that_ends_the_answer_is_no_part_of_it(server):
    chunks = server.ask(VIEW, "What?", max_tokens=20, stream=True)
    pieces = [piece for chunk in chunks if (piece := chunk.choices[0].delta.content)]
    whole, stop = "".join(pieces), pieces[2][-1] + pieces[3][0]  # begun by one piece, and ended by the next
    expected = whole[: whole.index(stop)]

    answer = server.ask(VIEW, "What?", max_tokens=20, stop=["never said", stop])
    chunks = list(server.ask(VIEW, "What?", max_tokens=20, stop=stop, stream=True))

    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert answer.usage.completion_tokens < 20
    assert server.ask(VIEW, "What?", max_tokens=20, stop=[whole[-1] + "x"]).choices[0].message.content == whole


@pytest.mark.parametrize("stream", [True, False])
def test_one_who_hangs_up_stops_the_answer(server, session, stream):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Go on."}], "stream": stream, "max_tokens": 400}
    content = json.dumps(body).encode()
    with server.connection() as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        wait_until(lambda: any(answer.total_tokens > 1 for answer in server.chat.answers))
        [answer] = server.chat.answers

    server.ask("And now?", max_tokens=1)  # has waited for the model's thread

    assert 1 < answer.total_tokens < 400
    wait_until(lambda: not server.chat.answers)


def test_more_requests_than_are_taken_are_refused(session):
    with served(session, max_requests=1) as small:
        stream = small.ask("Go on.", stream=True, max_tokens=300)
        with pytest.raises(openai.RateLimitError) as refused:
            small.ask("Me too.")
        assert refused.value.body["code"] == "too_many_requests"
        stream.close()
        time.sleep(0.1)

        wait_until(lambda: not small.chat.answers)


def test_requests_whose_clients_hung_up_count_until_their_work_has_ended(session):
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Go on."}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    go_on = threading.Event()
    with served(session, max_requests=2) as small:
        small.chat.worker.submit(go_on.wait)
        for count in (1, 2):
            with small.connection() as connection:
                connection.sendall(head.encode() + body)
                wait_until(lambda count=count: len(small.chat.jobs) == count)
        with pytest.raises(openai.RateLimitError):
            small.ask("Me too.")
        go_on.set()
        wait_until(lambda: not small.chat.jobs)

        assert small.ask("And now?").choices


def test_a_server_that_ends_says_so_to_its_clients(session):
    with served(session) as ending:
        stream = ending.ask("Go on.", stream=True, max_tokens=400)
        next(stream)
        ending.chat.stop()

        with pytest.raises(openai.APIError, match="being stopped"):
            list(stream)


def test_a_model_that_answers_nan_says_so(tiny, session):
    head = session.model.get_output_embeddings().weight
    with served(session) as broken:
        kept = head.data.clone()
        head.data.fill_(float("nan"))
        try:
            with pytest.raises(openai.InternalServerError, match="NaN or infinite"):
                broken.ask("What?")
            with pytest.raises(openai.APIError, match="NaN or infinite"):
                list(broken.ask("What?", stream=True))
        finally:
            head.data.copy_(kept)
