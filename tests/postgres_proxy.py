"""A proxy before a PostgreSQL that cuts a connection at a commit: just before it, or before its answer.

Or it keeps the answer to itself, and the connection open.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

COMMIT = (
    b"Q\x00\x00\x00\x0bCOMMIT\x00"  # a simple query (postgresql.org/docs/15/protocol-message-formats.html)
)
Cut = Literal["before", "after", "silent"]


class Proxy:
    """Relay connections until the `with` block ends; `cut` says what happens to the next commit.

    The database stays away after a cut until `away` is set to False.
    """

    def __init__(self, url: str) -> None:
        self._server = f"{url.partition('host=')[2].partition('&')[0]}/.s.PGSQL.5432"
        self._folder = tempfile.TemporaryDirectory(prefix="pg-")
        self.url = url.replace(self._server.rsplit("/", 1)[0], self._folder.name)
        self.cut: Cut | None = None
        self.away = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._folder.cleanup()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        path = str(Path(self._folder.name) / ".s.PGSQL.5432")
        async with await asyncio.start_unix_server(self._connected, path):
            self._ready.set()
            await self._stop.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.close()
            return
        there, back = await asyncio.open_unix_connection(self._server)
        answering = asyncio.create_task(_copy(there, writer))
        try:
            while data := await reader.read(65_536):
                cut = self.cut if COMMIT in data else None
                if cut is not None:
                    self.cut, self.away = None, True
                    answering.cancel()
                if cut != "before":
                    back.write(data)
                    await back.drain()
                if cut == "silent":
                    await reader.read()  # until who waits for the answer gives up
                if cut is not None:
                    return
        except ConnectionError:
            return  # one of the two left without a word
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            back.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
