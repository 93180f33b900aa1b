"""`vega3d serve` as a user meets it: what it says, a first request by its own example, and Ctrl-C."""

import json
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import openai

from serving.serving_client import SECONDS, data_url, video, wait_until
from tiny_checkpoints import copy_frozen
from vega3d.shipped import example_clip

NOTICE = "Its answers mean nothing."


def test_the_command_says_what_it_serves_answers_and_ends_by_ctrl_c(tmp_path):
    model = copy_frozen(tmp_path / "noted", notice=NOTICE)
    (tmp_path / "key.txt").write_text("secret\n")
    (tmp_path / "room.mp4").write_bytes(example_clip("room").read_bytes())
    command = [sys.executable, "-m", "vega3d_cli", "serve", str(model), "--port", str(free_port()), "--device", "cpu"]
    command += ["--api-key-file", "key.txt", "--files-root", ".", "--num-frames", "2", "--dtype", "float32"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = dict(line.split(":", 1) for line in iter(process.stdout.readline, "Ctrl-C ends it.\n") if line)
        assert said["note"].strip() == NOTICE and said["model"].strip() == "noted"
        assert "files under" in said["visuals"] and "64 MiB" in said["visuals"] and "with the key" in said["clients"]
        address = said["address"].strip()
        wait_until(lambda: answers(address.removesuffix("/v1") + "/health"))
        asked = shlex.split(said["try"].replace("$KEY", "secret"))
        assert asked[:2] == ["curl", f"{address}/chat/completions"]
        body = json.loads(asked[asked.index("-d") + 1])
        assert httpx.post(asked[1], json=body).status_code == 401

        client = openai.OpenAI(base_url=address, api_key="secret", timeout=SECONDS, max_retries=0)
        assert client.chat.completions.create(**body, max_tokens=2).notice == NOTICE
        for url in ("room.mp4", data_url(example_clip("room"), "video/mp4")):
            messages = [{"role": "user", "content": [video(url), {"type": "text", "text": "What?"}]}]
            assert client.chat.completions.create(model="noted", messages=messages, max_tokens=2).choices
        stream = client.chat.completions.create(**body, max_tokens=4000, stream=True)
        next(stream)

        process.send_signal(signal.SIGINT)

        out, error = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (0, "stopped\n")
        assert all(line.startswith("loading ") for line in error.splitlines()), error
    finally:
        process.kill()
    assert not list(Path(tmp_path).glob("vega3d-serve-*"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def answers(address: str) -> bool:
    """Whether the server is there: it says what it serves before it listens."""
    try:
        return httpx.get(address).json() == {"status": "ok"}
    except httpx.TransportError:
        return False
