"""The HTTP server of one process, whether it is the only one or a worker."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import click
import uvicorn

from router.api.protocol import Bounds, bounded
from router.app import World, create_app
from router.errors import RouterError
from router.running import RunningCatalog
from router.settings import Settings
from router.workers.link import Link
from router.workers.signals import ENDING, forget_wakeups

# uvloop accepts one connection a turn for each listening socket it has, and a turn of a busy loop takes
# milliseconds: with one, the last of 256 clients that came at once waited two seconds.
_ACCEPTS = 8
_OPEN_FILES = 65_536
_COLLECT_AFTER_OBJECTS = 20_000


class Server(uvicorn.Server):
    """Tell the supervisor, where there is one, when connections are taken."""

    def __init__(self, config: uvicorn.Config, link: Link | None) -> None:
        super().__init__(config)
        self._link = link

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals as `server_of` set them: this server hears them until the process ends.

        uvicorn alone would give them back when it has stopped, and raise again those that it heard; whoever
        goes on asking (`uv run` passes on what the terminal sends as well) would meet the loop going down.
        """
        forget_wakeups()
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen."""
        await super().startup(sockets)
        if self._link is not None and self.started:
            self._link.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; asked a second time by Ctrl-C, cut what runs, and still settle it and close the books.

        uvicorn alone would leave the application in the middle of that: a traceback, and its holds open.
        """
        await super().shutdown(sockets)
        if self.force_exit:
            running = tuple(self.server_state.tasks)
            for task in running:
                task.cancel("asked a second time to stop")
            await asyncio.gather(*running, return_exceptions=True)
            await self.lifespan.shutdown()


def server_of(
    settings: Settings, running: RunningCatalog, link: Link | None = None, world: World | None = None
) -> Server:
    """Return the server of one process, ready to run; signals and the process are set up for it.

    `link` is a worker's; `world` is what the program takes from outside, else this machine's. A storage that
    cannot be used ends the command with the fix.
    """
    try:
        app = create_app(settings, running, world, link)
    except RouterError as error:
        raise click.ClickException(error.message) from None
    connections = -(-settings.max_connections // settings.workers)
    server = Server(
        uvicorn.Config(
            app,
            http=bounded(Bounds(connections=connections, client_stall_s=settings.client_stall_s)),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=settings.grace_s,
        ),
        link,
    )
    _prepare_process()
    signal.signal(signal.SIGHUP, lambda _signal, _frame: running.ask_reload())
    for wanted in ENDING:
        signal.signal(wanted, server.handle_exit)
    return server


def accepting(listener: socket.socket) -> list[socket.socket]:
    """Return a listener as often as connections are to be accepted a turn."""
    return [listener, *(listener.dup() for _ in range(_ACCEPTS - 1))]


def _prepare_process() -> None:
    """Take what the machine allows: open files, and a garbage collector that looks less often.

    What was made so far lives as long as the process, and requests leave next to no cycles: collecting after
    every 700 new objects cost 9 % of the time of a busy router.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 20, 20)
