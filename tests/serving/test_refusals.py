"""What the server refuses, and that it goes on afterwards."""

import os
from pathlib import Path

import openai
import pytest

from serving.serving_client import data_url, image, served, video
from serving.test_chat import VIEW, png
from vega3d.inference.session import Session
from vega3d.shipped import example_clip

HEAD = "POST /v1/chat/completions HTTP/1.1\nHost: localhost"
CLIP = example_clip("room").read_bytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder of files, beside one that must not be read."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.png").write_bytes(png(5))
    root = folder / "files"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "view one.png").write_bytes(png(3))
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "folder-link").symlink_to(folder)
    (root / "loop").symlink_to(root / "loop")
    (root / "large.png").write_bytes(png(1) + bytes(2**20))
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(scope="module")
def server(tiny, root):
    with served(Session(*tiny, num_frames=2), files_root=root, max_body=2**20) as running:
        yield running
        assert running.ask(VIEW, "What?").choices  # it still answers, after all that was refused


def refused(server, *content, **options) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as error:
        server.ask(*content, **options)
    body = error.value.body
    assert set(body) == {"message", "type", "param", "code"}
    return error.value


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
OPTIONS = [
    {"tools": [TOOL]}, {"n": 2}, {"logprobs": True}, {"top_logprobs": 2}, {"response_format": {"type": "json_object"}},
    {"presence_penalty": 0.5}, {"frequency_penalty": 1.0}, {"logit_bias": {"5": 1}}, {"user": "me"},
    {"tool_choice": "auto"}, {"functions": []}, {"reasoning_effort": "low"}, {"service_tier": "auto"},
    {"temperature": -1}, {"temperature": 2.5}, {"top_p": 0}, {"top_p": 1.5}, {"top_p": 0.5}, {"max_tokens": 0},
    {"max_tokens": "8"}, {"max_tokens": 10**6}, {"max_completion_tokens": 9}, {"seed": "a"}, {"seed": 2**63},
    {"stop": [""]}, {"stop": list("abcde")}, {"stop": 5}, {"stream": "yes"}, {"stream_options": {}},
    {"extra_body": {"chat_template_kwargs": {}}}, {"extra_body": {"top_k": 4}},
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_an_option_that_is_not_used_is_refused_by_its_name(server, option):
    name = next(iter(option.get("extra_body", option)))

    error = refused(server, "What?", **option)

    assert error.status_code == 400 and name in error.body["message"]


def test_options_that_ask_for_nothing_are_taken(server):
    nothing = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "user": None, "top_p": 1}

    assert server.ask("What?", **nothing).choices


PART = {"type": "text", "text": "What?"}
CONTENT = {  # of a user's message: what the refusal says
    "no text": ("", "no text"),
    "null content": (None, "content"),
    "a visual alone": ([VIEW], "no text"),
    "sound": ([{"type": "input_audio", "input_audio": {}}], "input_audio"),
    "two videos in one part": ([PART, {"type": "video_url", "video_url": [{}, {}]}], "[1].video_url: there are 2"),
    "no url": ([PART, {"type": "image_url", "image_url": {}}], "image_url.url"),
    "detail": ([PART, {"type": "image_url", "image_url": {"url": "x", "detail": "low"}}], "detail"),
    "too many visuals": ([PART, *[VIEW] * 17], "17"),
    "placeholder": ([VIEW, {"type": "text", "text": "<|image_pad|>?"}], "<|image_pad|>"),
    "video placeholder": ("<|video_pad|>", "<|video_pad|>"),
    "half a letter": ("\ud800", "half"),
    "long": ("word " * 40_000, "tokens"),
    "very long": ("x" * 1_000_001, "1000001"),
}
USER = {"role": "user", "content": "What?"}
MESSAGES = {
    **{name: ([{"role": "user", "content": content}], words) for name, (content, words) in CONTENT.items()},
    "no messages": ([], "messages"),
    "no list": ("What?", "messages"),
    "no content": ([{"role": "user"}], "content"),
    "a tool": ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "tool"),
    "a developer": ([{"role": "developer", "content": "x"}], "developer"),
    "the assistant last": ([USER, {"role": "assistant", "content": "y"}], "last message"),
    "a name": ([{**USER, "name": "me"}], "name"),
    "a visual of the assistant": ([{"role": "assistant", "content": [VIEW]}, USER], "messages[0]"),
    "end of a turn": ([{"role": "system", "content": "<|im_end|>"}, USER], "<|im_end|>"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_cannot_be_answered_are_refused(server, name):
    messages, words = MESSAGES[name]

    status, answer = server.post({"model": "tiny", "messages": messages})

    assert status == 400 and words in answer["error"]["message"]


VISUALS = {
    "broken video": (video(data_url(CLIP[: len(CLIP) // 2], "video/mp4")), "messages[0].content[0]"),
    "bytes": (video(data_url(bytes(range(256)), "video/mp4")), "no video of a usual format"),
    "list of files": (video(data_url(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "video/mp4")), "usual format"),
    "concatenation": (video(data_url(b"ffconcat version 1.0\nfile /etc/passwd\n", "video/mp4")), "usual format"),
    "broken image": (image(data_url(png(1)[:100], "image/png")), "cannot be read as an image"),
    "film as an image": (image(data_url(CLIP, "image/png")), "is a film"),
    "nothing": (image("data:image/png;base64,"), "0 bytes"),
    "no base64": (image("data:image/png;base64,!!!"), "not base64"),
    "no encoding": (image("data:image/png,xyz"), "base64"),
    "address": (image("http://127.0.0.1/x.png"), "addresses are not fetched"),
    "other address": (image("ftp://127.0.0.1/x.png"), "not taken"),
}  # fmt: skip


@pytest.mark.parametrize("name", VISUALS)
def test_a_visual_that_cannot_be_read_is_refused_without_a_path_of_the_server(server, name):
    part, words = VISUALS[name]

    error = refused(server, part, "What?")

    assert error.status_code == 400 and words in error.body["message"]
    assert error.body["param"] == "messages[0].content[0]" and "/tmp" not in error.body["message"]


def test_files_under_the_root_are_read(server, root):
    sent = server.ask(image(data_url(png(3), "image/png")), "What?").choices[0].message.content

    for url in ("sub/view one.png", f"file://{root}/sub/view%20one.png", "./sub/../sub/view one.png"):
        assert server.ask(image(url), "What?").choices[0].message.content == sent


OUTSIDE = ["../secret.png", "/etc/passwd", "file:///etc/passwd", "link.png", "folder-link/secret.png", "loop", "pipe",
           "sub", "", "nothing.png", "sub/../../secret.png", "file://..%2Fsecret.png", "file:///%2e%2e/secret.png",
           "file://elsewhere/sub/view%20one.png", "a\0b", "x" * 5000, "~/x", "\ud800"]  # fmt: skip


@pytest.mark.parametrize("url", OUTSIDE, ids=repr)
def test_no_file_outside_the_root_is_read(server, root, url):
    message = {"role": "user", "content": [image(url), {"type": "text", "text": "What?"}]}

    status, answer = server.post({"model": "tiny", "messages": [message]})

    assert status == 400
    assert "no file under the server" in answer["error"]["message"] or url in ("", "\ud800")
    assert str(root) not in answer["error"]["message"].replace(url, "")


def test_a_file_that_is_too_large_is_refused(server):
    assert "--max-body" in refused(server, image("large.png"), "What?").body["message"]


def test_no_file_is_read_without_a_root(tiny, root):
    with served(Session(*tiny, num_frames=2)) as without:
        for url in (f"{root}/sub/view one.png", f"file://{root}/secret.png"):
            assert "files are not read here" in refused(without, image(url), "What?").body["message"]


@pytest.mark.parametrize("length", [2**30, 2**20 + 1, "9" * 18])
def test_a_large_body_is_refused_by_its_length_before_it_is_read(server, length):
    status, answer = server.raw(f"{HEAD}\nContent-Length: {length}")  # nothing of the body is sent

    assert status == 413 and "at most 1 MiB" in answer["error"]["message"]


def test_a_large_body_without_a_length_is_refused_when_it_is_too_large(server):
    piece = b"10000\r\n" + bytes(2**16) + b"\r\n"

    for count in (17, 40):  # neither has an end; of the second one much is still on its way
        status, answer = server.raw(f"{HEAD}\nTransfer-Encoding: chunked", piece * count)

        assert status == 413 and answer["error"]["code"] == "request_too_large"


def test_the_client_of_a_large_body_is_told_why(server):
    error = refused(server, image(data_url(bytes(3 * 2**20), "image/png")), "What?")

    assert error.status_code == 413


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 10**5, b'{"model": NaN}', b'{"seed": 1e999}', b"9" * 5000]
)
def test_a_body_that_is_no_request_is_refused(server, body):
    status, answer = server.post(body)

    assert status == 400 and answer["error"]["type"] == "invalid_request_error"


def test_names_of_fields_may_hold_anything(server):
    for name in ("\ud800" * 10, "x" * 10**5, "\n", "'"):
        status, answer = server.post({"model": "tiny", "messages": [USER], name: 1})
        assert status == 400 and len(answer["error"]["message"]) < 400


def test_another_model_is_not_found(server):
    error = refused(server, "What?", model="gpt")

    assert (error.status_code, error.body["code"]) == (404, "model_not_found")
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("gpt")
    assert [model.id for model in server.client().models.list()] == [server.client().models.retrieve("tiny").id]


@pytest.mark.parametrize(
    "line, status", [("GET /v1/zzz", 404), ("GET /v1/chat/completions", 405), ("POST /reset", 404)]
)
def test_what_is_not_there_is_refused_in_the_same_form(server, line, status):
    got, answer = server.raw(f"{line} HTTP/1.1\nHost: localhost\nContent-Length: 0\nConnection: close")

    assert got == status and "/v1/models" in answer["error"]["message"]


def test_other_names_and_pages_of_other_sites_are_refused(server):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 1}

    assert server.post(body, "Host: localhost")[0] == 200
    assert server.post(body, "Host: localhost", f"Origin: http://localhost:{server.port}")[0] == 200
    assert server.post(body, "Host: evil.example")[0] == 403
    assert server.post(body, "Host: localhost", "Origin: https://evil.example")[0] == 403


def test_a_refusal_arrives_though_the_body_is_on_its_way(tiny):
    with served(Session(*tiny), api_key="secret") as locked:
        for _ in range(10):
            assert locked.post(b" " * 2_000_000)[0] == 401
            assert locked.post(b" " * 2_000_000, "Host: evil.example")[0] == 403


def test_a_key_is_asked_for(tiny):
    with served(Session(*tiny), api_key="secret") as locked:
        options = {"model": "tiny", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 1}
        for key in ("wrong", "secre", "secret1", "sécret"):
            with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
                locked.client(key).models.list()
        with pytest.raises(openai.AuthenticationError):
            locked.client("wrong").chat.completions.create(**options)

        assert locked.client("secret").chat.completions.create(**options).choices
        assert locked.post(options)[0] == 401
        assert locked.raw("GET /health HTTP/1.1\nHost: localhost\nConnection: close") == (200, {"status": "ok"})
