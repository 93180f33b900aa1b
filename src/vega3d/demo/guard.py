"""What stands before Gradio: requests of other sites, and such as are too large or make no sense, end here.

Gradio answers a request that it cannot read with its own error and a traceback in the log; here it is one line each,
without the server's folders.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext

import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vega3d.demo import texts
from vega3d.demo.checks import MAX_MIB
from vega3d.demo.hosts import Hosts
from vega3d.demo.uploads import NoRoomError, Uploads

logger = logging.getLogger(__name__)

FORM_BYTES = 2**20  # of a request without a file, and of what comes around the file of an upload
UPLOAD = "/gradio_api/upload"
UNUSED = ("/gradio_api/process_recording", "/gradio_api/deep_link", "/monitoring")  # would write files, or to the log
SHOWN = 200  # characters of a path or a message in the log


class Guard:
    """
    Args:
        app: that is guarded.
        hosts: names under which it may be asked for; any if None.
        uploads: which are given their room.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts | None, uploads: Uploads):
        self.app, self.hosts, self.uploads = app, hosts, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # the page has no other connections
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.foreign(headers) or unused(scope) or too_large(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"].rstrip("/") == UPLOAD
        room = self.uploads.room_for(int(headers.get("content-length", 0))) if is_upload else nullcontext()
        try:
            with room:
                await self.answered(scope, receive, send)
        except NoRoomError:
            logger.warning("An upload was refused: there is no room for it.")
            await told(503, texts.NO_ROOM)(scope, receive, send)

    def foreign(self, headers: Headers) -> PlainTextResponse | None:
        """The refusal of a request that is meant for another name, or comes from the page of another."""
        if self.hosts is None:
            return None
        names = headers.getlist("host")
        if len(names) != 1 or not self.hosts.allows(names[0]):
            return told(403, texts.OTHER_HOST)
        if not all(self.hosts.allows_origin(origin) for origin in headers.getlist("origin")):
            return told(403, texts.OTHER_ORIGIN)
        return None

    async def answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets Gradio answer; what it cannot is told and logged in a line."""
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:
            message = f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode()
            logger.warning("%s %.200r failed. %r", scope["method"], scope["path"], message[:SHOWN])
            if has_begun:
                await send({"type": "http.response.body", "body": b""})
                return
            is_ours = isinstance(error, OSError)
            await told(500 if is_ours else 400, texts.FAILED if is_ours else texts.BAD_REQUEST)(scope, receive, send)


def unused(scope: Scope) -> PlainTextResponse | None:
    return told(404, "There is nothing here.") if scope["path"].startswith(UNUSED) else None


def too_large(scope: Scope, headers: Headers) -> PlainTextResponse | None:
    """The refusal of a request that does not say its size, or is too large; the server counts what comes."""
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return None
    length = headers.get("content-length")
    if length is None:
        return told(411, "The request does not tell its size. Send a Content-Length.")
    size, is_upload = int(length), scope["path"].rstrip("/") == UPLOAD
    if size <= (MAX_MIB * 2**20 if is_upload else 0) + FORM_BYTES:
        return None
    if is_upload:
        return told(413, f"The upload has {size / 2**20:.1f} MiB, but at most {MAX_MIB} MiB are taken. Shorten it.")
    return told(413, f"The request has {size / 2**20:.1f} MiB, but at most {FORM_BYTES / 2**20:.0f} MiB is taken.")


def told(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(text, status, {"X-Content-Type-Options": "nosniff"})


class GuardedBlocks(gr.Blocks):
    """A page whose errors, of values that do not fit, are worded for its visitors and not by Gradio."""

    async def preprocess_data(self, block_fn, inputs, state, explicit_call=False):
        try:
            check_values(block_fn.inputs, inputs)
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Exception as error:
            logger.info("Values did not fit: %s", type(error).__name__)
            raise gr.Error(texts.BAD_REQUEST, print_exception=False) from None

    async def process_api(self, *args, **options):
        try:
            return await super().process_api(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            logger.exception("A request failed.")
            raise gr.Error(texts.FAILED, print_exception=False) from error


def check_values(components: Sequence, values: Sequence) -> None:
    """Raises ValueError for values that Gradio would drop, turn into text, or fetch from elsewhere."""
    if len(values) != len(components):
        raise ValueError(f"{len(values)} values, but {len(components)} are wanted.")
    for component, value in zip(components, values, strict=True):
        if isinstance(component, gr.Textbox) and not isinstance(value, str):
            raise ValueError("A text box holds text.")
        if is_address(value):
            raise ValueError("A file is at an address.")


def is_address(value: object) -> bool:
    """Whether a value is a file that the server would have to fetch from elsewhere."""
    if not isinstance(value, dict):
        return False
    path = value.get("path")
    return (isinstance(path, str) and "://" in path) or any(map(is_address, value.values()))
