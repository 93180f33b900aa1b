"""`vega3d serve`."""

import contextlib
import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from vega3d_cli import common

MIB = 2**20


@common.command(
    "Share",
    """    vega3d serve

    vega3d serve org/vega3d --device cuda:0 --dtype bfloat16 --files-root videos

    vega3d serve org/vega3d --4bit --host 0.0.0.0 --api-key-file key.txt --allow-urls

    vega3d serve --num-frames 16 --max-body 200 --cache-size 32 --max-requests 64""",
)
def serve(
    model: common.ModelArgument = common.MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which a proxy or a name server reaches it; may be given several times."),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch visuals from http(s) addresses of the public internet.")
    ] = False,
    files_root: Annotated[
        Path | None, typer.Option(help="Folder whose files requests may name.  [default: no files]")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key that clients must send; others on this machine may see it. [default: none]")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File whose first line is that key.")] = None,
    max_body: Annotated[
        int, typer.Option(min=1, max=2**20, help="The most of a request, and of a visual [MiB].")
    ] = 64,
    max_requests: Annotated[int, typer.Option(**common.COUNT, help="Requests answered or waiting at a time.")] = 16,
    cache_size: Annotated[int, typer.Option(**common.COUNT, help="Encoded visuals held in memory.")] = 8,
    cache: common.CacheOption = None,
    num_frames: common.NumFrames = None,
    fps: common.Fps = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the weights; auto: of the files.")
    ] = "auto",
    device: common.Device = None,
    four_bit: common.FourBit = False,
) -> None:
    """Serve a model to clients of OpenAI's chat API, with images and videos.

    Needs FastAPI, Uvicorn and openai: pip install 'vega3d[serve]'. Ctrl-C ends it.
    """
    common.check_port(host, port)
    key = chosen_key(api_key, api_key_file)
    common.quieten(True)
    common.needs("fastapi", "uvicorn", "openai")
    from vega3d.hosts import served_hosts
    from vega3d.processing.sampling_vega3d import check_sampling
    from vega3d.serving.settings import ServerSettings
    from vega3d.shipped import model_folder

    hosts = served_hosts(host, allow_host or [])
    check_sampling(num_frames, fps)
    folder = model_folder(model)
    settings = ServerSettings(
        name=folder.resolve().name if Path(model).is_dir() else model,
        allow_urls=allow_urls,
        files_root=files_root,
        max_body=max_body * MIB,
        max_requests=max_requests,
        api_key=key,
    )
    with common.loading(model):
        from vega3d.hub.load import load
        from vega3d.serving.app import Server
        from vega3d.serving.chat import VegaChat

        session = load(
            folder,
            four_bit=four_bit,
            device=device,
            dtype=dtype,
            cache=common.open_cache(cache),
            num_frames=num_frames,
            fps=fps,
            stored_clips=cache_size,
        )
    common.check_port(host, port)
    for line in introduction(settings, session.model.config.notice, f"http://{host}:{port}/v1"):
        typer.echo(line)
    server = Server(VegaChat(session, settings), hosts)
    server.config.host, server.config.port = host, port
    with contextlib.suppress(KeyboardInterrupt):  # Uvicorn passes it on when the server has ended
        server.run()
    typer.echo("stopped")


def chosen_key(key: str | None, file: Path | None) -> str | None:
    """The key of clients; raises ValueError if it is given twice, or the file has none."""
    if file is None:
        return key
    if key is not None:
        raise ValueError("--api-key and --api-key-file exclude each other. Give one of them.")
    from vega3d.processing.media_files_vega3d import check_file

    lines = check_file(file, "key").read_text().splitlines()
    return lines[0].strip() if lines else ""


def introduction(settings, notice: str | None, address: str) -> list[str]:
    """What is served, where, to whom, and a first request."""
    asked = {"model": settings.name, "messages": [{"role": "user", "content": "What is a room?"}]}
    request = f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(asked))}"
    key = "" if settings.api_key is None else ' -H "Authorization: Bearer $KEY"'
    root = "" if settings.files_root is None else f" ({settings.files_root})"
    lines = [] if notice is None else [f"note: {notice}"]
    return [
        *lines,
        f"model:    {settings.name}",
        f"address:  {address}",
        f"visuals:  {settings.sources}{root}; at most {settings.max_body // MIB} MiB each and a request",
        f"clients:  {'those with the key' if settings.api_key else 'all who reach the port, without a key'}; "
        f"{settings.max_requests} requests at a time",
        f"try:      curl {address}/chat/completions{key} {request}",
        "Ctrl-C ends it.",
    ]
