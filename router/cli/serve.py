"""`router serve`: the service."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

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


@click.command()
@click.option("--host", help="Address to listen on; default 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port to listen on; default 8402, 0 for a free one."
)
@catalog_option
@data_option
@config_option
@click.option(
    "--access",
    type=click.Choice(["open", "paid"]),
    help="open: nobody is asked for a key or a payment; paid: everybody is. Default open on loopback, paid"
    " elsewhere and where wallets can pay.",
)
@click.option("--log", type=click.Choice(["json", "text"]), help="Form of the log on standard error.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that serve, default 1; limits stay exact.",
)
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
    workers: int | None,
    demo: bool | None,
    insecure_open: bool | None,
) -> None:
    """Serve the OpenAI API; without any key, file or network the built-in demo answers.

    Everything else is set by ROUTER_... variables or router.toml, which the README lists: keys and databases,
    limits, selling to wallets (ROUTER_X402_PAY_TO, ROUTER_MPP_SECRET) and paying upstreams
    (ROUTER_WALLET_...).
    """
    settings = settings_of(
        config,
        host=host,
        port=port,
        catalog=catalog,
        data=data,
        access=access,
        log=log,
        workers=workers,
        demo=demo,
        insecure_open=insecure_open,
    )
    running = _running_catalog(settings)
    # Several workers have listening sockets of their own; what has listened once could not be theirs.
    listener = _listen(settings.host, settings.port, listens=settings.workers == 1)
    click.echo(_banner(settings, running, listener.getsockname()[1]))
    _try_storage(settings)
    _try_selling(settings)
    if settings.workers > 1:
        raise SystemExit(_supervise(settings, listener))
    _run(settings, running, listener)


def _running_catalog(settings: Settings) -> RunningCatalog:
    import asyncio

    from router.running import RunningCatalog, probe

    sources = sources_of(settings)
    with faults_shown(sources.directory):
        return RunningCatalog(sources, asyncio.run(probe(sources.directory)))


def _listen(host: str, port: int, *, listens: bool) -> socket.socket:
    """Bind before anything is printed, so that the printed address is true."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; else small writes wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        if listens:
            listener.listen(_BACKLOG)
    except OSError as fault:
        listener.close()
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {fault.strerror}. Another router may run there; use --port."
        ) from None
    return listener


def _try_storage(settings: Settings) -> None:
    """End the command with the fix where the database server cannot be used."""
    import asyncio

    from router.errors import RouterError
    from router.ledger.engines import check_storage

    try:
        asyncio.run(check_storage(settings.storage_url))
    except RouterError as error:
        raise click.ClickException(error.message) from None


def _try_selling(settings: Settings) -> None:
    """End the command with the fix where wallet payments are switched on and could never be settled."""
    import asyncio
    import time

    from router.settings import SettingsError
    from router.shop import try_selling

    try:
        warning = asyncio.run(try_selling(settings, time.monotonic))
    except (SettingsError, ValueError) as fault:
        raise click.ClickException(str(fault)) from None
    if warning is not None:
        click.echo(warning, err=True)


def _run(settings: Settings, running: RunningCatalog, listener: socket.socket) -> None:
    from router.cli.server import accepting, server_of
    from router.telemetry.log import configure_logging

    configure_logging(settings.log)
    server = server_of(settings, running)
    server.run(sockets=accepting(listener))
    if not server.started:
        raise click.ClickException("the service did not start; the log above says why")


def _supervise(settings: Settings, bound: socket.socket) -> int:
    """Run several workers on an address that is bound; returns the exit status."""
    import sys
    import time

    import uvloop

    from router.telemetry.log import configure_logging
    from router.workers.supervisor import Listeners, Supervisor

    configure_logging(settings.log)

    def command(pair: int, listener: int) -> list[str]:
        return [sys.executable, *_module_path(), "-m", "router.cli.worker", str(pair), str(listener)]

    async def run() -> int:
        supervisor = Supervisor(
            command,
            Listeners(bound),
            settings.plain(),
            count=settings.workers,
            grace_s=settings.grace_s,
            clock=time.monotonic,
        )
        return await supervisor.run()

    return uvloop.run(run())


def _module_path() -> list[str]:
    """Return Python's flag that keeps a folder `router` here from standing in for the installed package."""
    import router

    installed = Path(router.__file__).resolve().parents[1]
    return [] if installed == Path.cwd().resolve() else ["-P"]


def _banner(settings: Settings, running: RunningCatalog, port: int) -> str:
    from router.cli.banner import banner

    return banner(settings, running.current, catalog_directory(settings), port)
