"""The application, and the server that runs it: names, keys, sizes and numbers of requests are checked here."""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Coroutine
from socket import socket
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from vega3d.hosts import Hosts
from vega3d.serving.chat import VegaChat, failure
from vega3d.serving.requests import finite
from vega3d.serving.settings import ApiError, ServerSettings

CHAT = "/v1/chat/completions"
BODY_SECONDS = 120.0  # for a body to arrive
PASSED_OVER_SECONDS = 1.0  # in which what comes of a refused body is read, and not kept
CLIENT_GONE = 499  # as nginx logs it; nobody reads it


class Server(uvicorn.Server):
    """A server that ends the answers in progress when it is told to end, and waits for its model to rest."""

    def __init__(self, chat: VegaChat, hosts: Hosts):
        # One parser of HTTP everywhere, whatever else is installed; our errors name faults, not its log of requests.
        options: dict[str, Any] = {"http": "h11", "ws": "none", "log_level": "warning", "server_header": False}
        super().__init__(uvicorn.Config(build(chat, hosts), timeout_graceful_shutdown=3, **options))
        self.chat = chat

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self.chat.stop()
        await super().shutdown(sockets)
        await asyncio.to_thread(self.chat.rest)


def build(chat: VegaChat, hosts: Hosts) -> FastAPI:
    """The application of a handler, which answers to the names `hosts`."""
    settings = chat.settings

    app = FastAPI(openapi_url=None)
    app.add_middleware(Gate, hosts=hosts, chat=chat)
    keyed = [Depends(key_check(settings.api_key))]

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        there = f"GET /health, GET /v1/models and POST {CHAT}"
        words = f"{request.method} {request.url.path[:200]}: {error.detail}. There are {there}."
        return error_response(ApiError(error.status_code, words))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return error_response(failure(error))

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok"}

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> dict:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}", dependencies=keyed)
    async def model(name: str) -> dict:
        if name != settings.name:
            raise ApiError(404, f"There is no model {name[:200]!r} here.", "model_not_found", "model")
        return card

    @app.post(CHAT, dependencies=keyed)
    async def chat_completions(request: Request) -> Response:
        try:
            body = await read_json(request, settings)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        return await unless_gone(request, chat.handle_request(body, f"chatcmpl-{uuid4().hex}"))

    card = {"id": settings.name, "object": "model", "created": int(time.time()), "owned_by": "vega3d"}
    card["notice"] = chat.session.model.config.notice
    return app


class Gate:
    """Middleware that refuses requests for other names, and more at a time than are taken."""

    def __init__(self, app: ASGIApp, hosts: Hosts, chat: VegaChat):
        self.app, self.hosts, self.chat = app, hosts, chat
        self.max_requests = chat.settings.max_requests
        self.busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.foreign(Headers(scope=scope))
        is_chat = scope["path"].startswith(CHAT) and scope["method"] == "POST"
        # Work of requests whose client hung up counts until it has ended: it holds memory.
        busy = max(self.busy, len(self.chat.jobs))
        if refusal is None and is_chat and busy >= self.max_requests:
            words = f"{busy} requests are being answered, the most that are taken (--max-requests). Try again."
            refusal = ApiError(429, words, "too_many_requests")
        if refusal is not None:
            await pass_over(Request(scope, receive))
            await error_response(refusal)(scope, receive, send)
            return
        self.busy += is_chat
        try:
            await self.app(scope, receive, send)
        finally:
            self.busy -= is_chat

    def foreign(self, headers: Headers) -> ApiError | None:
        """The refusal of a request that is meant for another name, or comes from the page of another site."""
        names = headers.getlist("host")
        if len(names) != 1 or not self.hosts.allows(names[0]):
            return ApiError(403, "The server is not known under this name. Start it with --allow-host NAME.", "host")
        if not all(self.hosts.allows_origin(origin) for origin in headers.getlist("origin")):
            return ApiError(403, "Pages of other sites may not ask here.", "origin")
        return None


def key_check(key: str | None):
    """A check of the key that a request sends, which takes as long for a wrong key whatever it is."""

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "")
        sent = given[7:] if given[:7].lower() == "bearer " else ""
        if key is not None and not hmac.compare_digest(sent.encode(), key.encode()):
            await pass_over(request)
            raise ApiError(
                401, "The API key is missing or wrong. Send it as Authorization: Bearer KEY.", "invalid_api_key"
            )

    return check


async def read_json(request: Request, settings: ServerSettings) -> Any:
    """The body as a JSON value.

    Raises:
        ApiError: 413 for a body that is too large: of a stated length before it is read, else when it becomes so; 408
            for one that does not come; 400 for what is no JSON.
    """
    limit = settings.max_body
    most = f"at most {limit / 2**20:.3g} MiB are taken (--max-body). Send a smaller or shorter visual"
    length = request.headers.get("content-length")
    if length is not None and int(length) > limit:
        raise ApiError(413, f"The request has {int(length) / 2**20:.1f} MiB, but {most}.", "request_too_large")
    body = bytearray()

    async def arrive() -> None:
        async for piece in request.stream():
            body.extend(piece)
            if len(body) > limit:
                body.clear()
                await pass_over(request)
                raise ApiError(413, f"The request has more than {limit} bytes, but {most}.", "request_too_large")

    try:
        await asyncio.wait_for(arrive(), BODY_SECONDS)
    except TimeoutError as error:
        raise ApiError(408, f"The body did not arrive within {BODY_SECONDS:.0f} s.", "timeout") from error
    try:
        return await asyncio.to_thread(json.loads, bytes(body), parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is no JSON ({str(error)[:200]}).", "invalid_json") from error


async def pass_over(request: Request) -> None:
    """Reads what is on its way and keeps none of it: who closes a connection over unread bytes may lose the answer."""

    async def arrive() -> None:
        async for _ in request.stream():
            pass

    with contextlib.suppress(TimeoutError, ClientDisconnect):
        await asyncio.wait_for(arrive(), PASSED_OVER_SECONDS)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response to a request whose body is read; the work is cancelled as soon as the client hangs up."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return Response(status_code=CLIENT_GONE)
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


def error_response(error: ApiError) -> JSONResponse:
    headers = {"X-Content-Type-Options": "nosniff"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 429:
        headers["Retry-After"] = "1"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    return JSONResponse(error.body, error.status, headers)
