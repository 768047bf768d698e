"""`router serve`: the service."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from router.cli.options import (
    catalog_directory,
    catalog_option,
    config_option,
    data_option,
    faults_shown,
    settings_of,
    sources_of,
)

if TYPE_CHECKING:
    from router.running import RunningCatalog
    from router.settings import Settings

_BACKLOG = 2_048
# uvloop accepts one connection a turn for each listening socket it has, and a turn of a busy loop takes
# milliseconds: with one, the last of 256 clients that came at once waited two seconds.
_ACCEPTS = 8
_OPEN_FILES = 65_536
_COLLECT_AFTER_OBJECTS = 20_000


@click.command()
@click.option("--host", help="Address to listen on; default 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port to listen on; default 8402, 0 for a free one."
)
@catalog_option
@data_option
@config_option
@click.option(
    "--access", type=click.Choice(["open", "paid"]), help="open: no key asked; paid: a key with credit."
)
@click.option("--log", type=click.Choice(["json", "text"]), help="Form of the log on standard error.")
@click.option("--demo", is_flag=True, default=None, help="Answer from the built-in demo provider only.")
@click.option("--insecure-open", is_flag=True, default=None, help="Allow open access on a public address.")
def serve(
    host: str | None,
    port: int | None,
    catalog: Path | None,
    data: Path | None,
    config: Path | None,
    access: str | None,
    log: str | None,
    demo: bool | None,
    insecure_open: bool | None,
) -> None:
    """Serve the OpenAI API; without any key, file or network the built-in demo answers."""
    settings = settings_of(
        config,
        host=host,
        port=port,
        catalog=catalog,
        data=data,
        access=access,
        log=log,
        demo=demo,
        insecure_open=insecure_open,
    )
    running = _running_catalog(settings)
    listener = _listen(settings.host, settings.port)
    click.echo(_banner(settings, running, listener.getsockname()[1]))
    _run(settings, running, listener)


def _running_catalog(settings: Settings) -> RunningCatalog:
    import asyncio

    from router.running import RunningCatalog, probe

    sources = sources_of(settings)
    with faults_shown(sources.directory):
        return RunningCatalog(sources, asyncio.run(probe(sources.directory)))


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything is printed, so that the printed address is true."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; else small writes wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as fault:
        listener.close()
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {fault.strerror}. Another router may run there; use --port."
        ) from None
    return listener


def _run(settings: Settings, running: RunningCatalog, listener: socket.socket) -> None:
    import uvicorn

    from router.api.protocol import Bounds, bounded
    from router.app import create_app
    from router.errors import RouterError
    from router.telemetry.log import configure_logging

    configure_logging(settings.log)
    try:
        app = create_app(settings, running)
    except RouterError as error:
        raise click.ClickException(error.message) from None
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=bounded(
                Bounds(connections=settings.max_connections, client_stall_s=settings.client_stall_s)
            ),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=settings.grace_s,
        )
    )
    _prepare_process()
    signal.signal(signal.SIGHUP, lambda _signal, _frame: running.ask_reload())
    # When it has stopped in good order, uvicorn raises the signal again under the handler found here.
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, _leave)
    server.run(sockets=[listener, *(listener.dup() for _ in range(_ACCEPTS - 1))])
    if not server.started:
        raise click.ClickException("the service did not start; the log above says why")


def _prepare_process() -> None:
    """Take what the machine allows: open files, and a garbage collector that looks less often.

    What was made so far lives as long as the process, and requests leave next to no cycles: collecting after
    every 700 new objects cost 9 % of the time of a busy router.
    """
    import gc
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 20, 20)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End the process well: to be asked to stop is not a fault."""
    raise SystemExit(0)


def _banner(settings: Settings, running: RunningCatalog, port: int) -> str:
    from router.cli.banner import banner

    return banner(settings, running.current, catalog_directory(settings), port)
