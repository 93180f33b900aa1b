"""Visuals from addresses: which machines are connected to, and what ends a download."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from serving.serving_client import image, served
from serving.test_chat import VIEW, png
from vega3d.inference.session import Session
from vega3d.serving import downloads
from vega3d.serving.downloads import download, is_public

PRIVATE = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
           "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1",
           "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
           "2002:7f00:1::", "2001:db8::1"]  # fmt: skip
# The loopback addresses of the server below, and others that stand for what must not be reached.
LOOPBACK = {"127.0.0.1"}.__contains__


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_no_public_machine_is_told(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_a_public_address_is_told(address):
    assert is_public(address)


class Files(BaseHTTPRequestHandler):
    """A picture, redirections, errors, and answers that do not end."""

    def do_GET(self):
        port = self.server.server_address[1]
        places = {"/away": f"http://127.0.0.2:{port}/view.png", "/there": "/view.png", "/round": "/round",
                  "/file": "file:///etc/passwd"}  # fmt: skip
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client hangs up
                while True:
                    self.wfile.write(bytes(1 if self.path == "/slow" else 2**16))
                    time.sleep(0.02 if self.path == "/slow" else 0)
        else:
            found = self.path == "/view.png"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(png(1))) if found else "0")
            self.end_headers()
            self.wfile.write(png(1) if found else b"")

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def files():
    server = ThreadingHTTPServer(("0.0.0.0", 0), Files)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def address(files) -> str:
    return f"http://127.0.0.1:{files.server_address[1]}"


def test_what_is_allowed_is_fetched(address):
    assert download(f"{address}/view.png", 10**6, LOOPBACK) == png(1)
    assert download(f"{address}/there", 10**6, LOOPBACK) == png(1)


@pytest.mark.parametrize(
    "path, words",
    [
        ("/away", "127.0.0.2 is not on the public internet"),
        ("/file", "only http and https"),
        ("/round", "redirects more than 3"),
        ("/none", "status 404"),
        ("/endless", "more than 1000000 bytes"),
    ],
)
def test_what_is_not_is_refused(address, path, words):
    with pytest.raises(ValueError, match=words):
        download(address + path, 10**6, LOOPBACK)


def test_a_length_that_is_too_large_is_refused(address):
    with pytest.raises(ValueError, match="at most 10 are taken"):
        download(f"{address}/view.png", 10, LOOPBACK)


def test_a_download_that_takes_too_long_ends(address, monkeypatch):
    monkeypatch.setattr(downloads, "SECONDS", 0.2)

    with pytest.raises(ValueError, match="takes more than"):
        download(f"{address}/slow", 10**6, LOOPBACK)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]/x", "http://2130706433/x", "http://0x7f.1/x",
     "http://me@127.0.0.1/x", "http:///x", "http://nowhere.invalid/x", "http://a b/x", "http://ä/x",
     "http://127.0.0.1:99999/x", "http://[::1/x"],
)  # fmt: skip
def test_no_address_of_this_machine_is_reached(url):
    with pytest.raises(ValueError):
        download(url, 10**6)


def test_a_server_fetches_only_if_it_was_told_to(tiny, address):
    session = Session(*tiny, num_frames=2)
    with served(session, is_allowed=LOOPBACK, allow_urls=True) as fetching:
        fetched = fetching.ask(image(f"{address}/view.png"), "What?").choices
        with pytest.raises(openai.BadRequestError, match="public internet"):
            fetching.ask(image(f"{address}/away"), "What?")
        assert fetched == fetching.ask(VIEW, "What?").choices
    with served(session, allow_urls=True) as guarded, pytest.raises(openai.BadRequestError, match="public internet"):
        guarded.ask(image(f"{address}/view.png"), "What?")
