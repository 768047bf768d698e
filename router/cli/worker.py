"""One worker of `router serve --workers N`; the supervisor starts it, nobody else does."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

import click
import uvloop

from router.cli.options import faults_shown, sources_of
from router.cli.server import accepting, server_of
from router.running import RunningCatalog, probe
from router.settings import Settings
from router.telemetry.log import configure_logging
from router.workers.link import Link
from router.workers.signals import end_when_asked

_log = logging.getLogger("router.worker")


def main() -> None:
    """Serve on the listener whose descriptor is the second argument; the first is that of the socket pair."""
    pair, listener = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    end_when_asked()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor tells who is to read the catalog again
    try:
        uvloop.run(_work(pair, listener))
    except click.ClickException as fault:
        _log.error("%s", fault.format_message())
        sys.exit(1)
    except ConnectionError:
        sys.exit("the supervisor ended before this worker could begin")


async def _work(pair: socket.socket, listener: socket.socket) -> None:
    link, begin = await Link.open(pair, _end)
    settings = Settings(**begin.settings)
    configure_logging(settings.log)
    sources = sources_of(settings)
    with faults_shown(sources.directory):
        running = RunningCatalog(sources, await probe(sources.directory))
    server = server_of(settings, running, link)
    await server.serve(sockets=accepting(listener))


def _end() -> None:
    """Finish what runs and end: without the supervisor nobody counts."""
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
