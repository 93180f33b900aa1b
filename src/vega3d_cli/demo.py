"""`vega3d demo`."""

from typing import Annotated

import typer

from vega3d_cli import common


@common.command(
    "Share",
    """    vega3d demo

    vega3d demo --model org/vega3d --4bit --cache features

    vega3d demo --host 0.0.0.0 --port 8080 --device cuda:1

    vega3d demo --allow-host demo.example.org    # behind a proxy that serves it under this name""",
)
def demo(
    model: common.ModelOption = common.MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name under which a proxy or a name server reaches the page; may be given several times. Requests "
            "for other names than the machine's own are refused, unless with --share."
        ),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also make a public address, by Gradio's service.")] = False,
    cache: common.CacheOption = None,
    device: common.Device = None,
    four_bit: common.FourBit = False,
) -> None:
    """Serve a page that answers questions about a video, with the world simulator and without.

    Needs Gradio: pip install 'vega3d[demo]'.
    """
    common.check_port(host, port)
    allowed = allow_host or []
    common.quieten(True)
    common.needs("gradio", "matplotlib")
    with common.loading(model):
        from vega3d.demo.app import build, launch
        from vega3d.demo.compare import Comparer
        from vega3d.hosts import served_hosts
        from vega3d.hub.load import load

        served_hosts(host, allowed)  # refuses what is no name before the model is loaded
        session = load(model, four_bit=four_bit, device=device, cache=common.open_cache(cache))
    launch(build(Comparer(session)), host, port, share, allow_hosts=allowed)
