"""A real server on a thread of the test, real clients, and requests as bytes."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai

from vega3d.hosts import served_hosts
from vega3d.inference.session import Session
from vega3d.serving.app import Server
from vega3d.serving.chat import VegaChat
from vega3d.serving.settings import ServerSettings
from vega3d.serving.visuals import Finder

SECONDS = 120  # limit of one wait; the machine may be busy


class Served:
    """A server that answers at `port`, and its handler."""

    def __init__(self, chat: VegaChat, port: int):
        self.chat, self.port = chat, port

    def client(self, key: str = "none", name: str = "127.0.0.1") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://{name}:{self.port}/v1", api_key=key, max_retries=0, timeout=SECONDS)

    def ask(self, *content, **options):
        """One completion of the model `tiny`; text, or parts of a message."""
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        options = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 8, **options}
        return self.client().chat.completions.create(**options)

    def raw(self, head: str, body: bytes = b"") -> tuple[int, dict]:
        """Status and JSON of the answer to a request as it is sent."""
        with self.connection() as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            with contextlib.suppress(OSError):  # the server may have hung up already
                connection.sendall(body)
            status, _, answer = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
        return int(status.split()[1]), json.loads(answer)

    def connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def post(self, value, *headers: str) -> tuple[int, dict]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = (*headers, *([] if any(line.startswith("Host") for line in headers) else ["Host: localhost"]))
        head = "\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, f"Content-Length: {len(body)}"])
        return self.raw(f"{head}\nConnection: close", body)


@contextlib.contextmanager
def served(session: Session, is_allowed: Callable[[str], bool] | None = None, **settings) -> Iterator[Served]:
    """A server of a session under the name `tiny`; `is_allowed` says which addresses are fetched from."""
    known = ServerSettings(name="tiny", **settings)
    finder = None if is_allowed is None else Finder(session, known, is_allowed)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(VegaChat(session, known, finder), served_hosts("127.0.0.1"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Served(server.chat, listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def data_url(content: Path | bytes, kind: str) -> str:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def video(url: str) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}
