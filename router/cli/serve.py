"""`router serve`: the service."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.address import bound, place, trouble
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
_log = logging.getLogger("router.serve")


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
    """Serve the OpenAI API. Without any key, file or network the built-in demo answers.

    Everything else is set by ROUTER_... variables or router.toml, which the README lists: keys and databases,
    limits, selling to wallets (ROUTER_X402_PAY_TO, ROUTER_MPP_SECRET) and paying upstreams
    (ROUTER_WALLET_...).
    """
    from router.workers.signals import end_when_asked

    end_when_asked()
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
    _begin_log(settings)
    try:
        _serve(settings)
    except click.ClickException as fault:
        if settings.log == "text":
            raise
        _log.error("%s", fault.format_message())  # every line is JSON, the last one too
        raise SystemExit(fault.exit_code) from None


def _begin_log(settings: Settings) -> None:
    """Open the log, and say in it which variables look like settings and are none: else nobody would."""
    import os

    from router.settings import unknown_variables
    from router.telemetry.log import configure_logging

    configure_logging(settings.log)
    for name, fix in unknown_variables(os.environ).items():
        _log.warning("%s is no setting and does nothing: %s", name, fix)


def _serve(settings: Settings) -> None:
    running = _running_catalog(settings)
    # Several workers have listening sockets of their own; what has listened once could not be theirs.
    listener = _listen(settings.host, settings.port, listens=settings.workers == 1)
    click.echo(_banner(settings, running, listener.getsockname()[1]))
    _try_storage(settings)
    _try_selling(settings)
    _tell_of_others(settings)
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
    try:
        listener = bound(host, port, _BACKLOG if listens else None)
    except OSError as fault:
        said, fix = trouble(fault, port)
        raise click.ClickException(f"cannot listen on {place(host, port)}: {said}; {fix}") from None
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


def _tell_of_others(settings: Settings) -> None:
    """Say in the log where another service has this folder and each would count limits alone.

    It is no fault: whoever changes versions without a gap runs two for a moment, and money is exact.
    """
    from router.ledger.owners import living

    others = living(settings.data)
    if others and settings.redis_url is None:
        _log.warning(
            "another router serves from the folder %s (%d process%s): credit, keys and payments stay exact,"
            " but each counts limits alone: both together let twice as much through. Stop one, give one"
            " a folder of its own (--data, ROUTER_DATA), or set ROUTER_SHARED_URL at both; for more processes"
            " at one address there is --workers",
            settings.data,
            others,
            "es" if others > 1 else "",
        )


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
        _log.warning("%s", warning)


def _run(settings: Settings, running: RunningCatalog, listener: socket.socket) -> None:
    from router.cli.server import accepting, server_of

    server = server_of(settings, running)
    server.run(sockets=accepting(listener))
    if not server.started:
        raise click.ClickException("the service did not start; the log above says why")


def _supervise(settings: Settings, bound: socket.socket) -> int:
    """Run several workers on an address that is bound; returns the exit status."""
    import sys
    import time

    import uvloop

    from router.workers.supervisor import Listeners, Supervisor

    def command(pair: int, listener: int) -> list[str]:
        worker = [sys.executable, *_module_path(), "-m", "router.cli.worker", str(pair), str(listener)]
        return [*_deaf_to_ctrl_c(), *worker]

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


def _deaf_to_ctrl_c() -> list[str]:
    """Return the head of a command that leaves a terminal's SIGINT alone until it asks for it.

    A terminal sends it to every process, and Python that is only starting would answer with a traceback. The
    supervisor ends its workers by SIGTERM. Only what is ignored when a program begins is ignored by Python,
    and libuv, which starts the workers, takes every other way of saying so back.
    """
    import shutil

    shell = shutil.which("sh")
    return [] if shell is None else [shell, "-c", 'trap "" INT; exec "$@"', "sh"]


def _module_path() -> list[str]:
    """Return Python's flag that keeps a folder `router` here from standing in for the installed package."""
    import router

    installed = Path(router.__file__).resolve().parents[1]
    return [] if installed == Path.cwd().resolve() else ["-P"]


def _banner(settings: Settings, running: RunningCatalog, port: int) -> str:
    from datetime import UTC, datetime

    from router.cli.banner import banner, banner_line

    found = settings, running.current, catalog_directory(settings), port
    return banner(*found) if settings.log == "text" else banner_line(*found, datetime.now(UTC))
