"""Keep N workers running, count limits for all of them, and end when they have.

The supervisor serves no request itself. It binds the address, starts each worker as a new process with one
end of a socket pair and a listener, and answers what the workers ask (`Desk`, `messages`). A worker that dies
gives its places back at once and is started again, after a pause that grows while it keeps dying.

On Linux each worker has a listening socket of its own on the address (SO_REUSEPORT) and the kernel spreads
connections over them evenly; with one shared socket the worker that sleeps deepest gets next to none. A dead
worker's socket goes with it, so the others get all new connections. Elsewhere the socket is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from router.limits import Admission
from router.telemetry.metrics import Numbers, added
from router.workers.desk import Desk
from router.workers.messages import (
    Begin,
    Crew,
    Do,
    Done,
    FromWorker,
    Gather,
    Gathered,
    Line,
    Message,
    Ready,
    ReloadOthers,
)
from router.workers.signals import ENDING, forget_wakeups, listen_to

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# A worker that has lived for so long starts its pauses anew.
SOUND_S = 60.0
_NUMBERS_S = 1.0
_RELOAD_S = 10.0
_OVER_GRACE_S = 10.0
_REUSES_PORT = sys.platform == "linux"
_log = logging.getLogger("router.workers")

Command = Callable[[int, int], Sequence[str]]
"""Return the command of a worker, from the descriptors of its end of the pair and of its listener."""


class Listeners:
    """Hand out listening sockets of one address, which stays ours in between."""

    def __init__(self, bound: socket.socket) -> None:
        """Take an address from a socket that is bound to it, and close that socket."""
        self._family = bound.family
        self._address = bound.getsockname()
        if _REUSES_PORT:
            bound.close()
            self._kept = self._bind()  # never listens, so no connection comes here
        else:
            self._kept = bound

    def next(self) -> socket.socket:
        """Return one for a worker. Raises OSError."""
        return self._bind() if _REUSES_PORT else self._kept.dup()

    def close(self) -> None:
        """Give the address up."""
        self._kept.close()

    def _bind(self) -> socket.socket:
        made = socket.socket(self._family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(self._address)
        except OSError:
            made.close()
            raise
        return made


@dataclass(slots=True, eq=False)
class _Worker:
    """One process and what it has asked for; `numbers` are the last that were told of it."""

    process: asyncio.subprocess.Process
    line: Line[FromWorker]
    desk: Desk
    ready: asyncio.Future[None]
    numbers: Numbers | None = None
    doing: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)

    @property
    def listens(self) -> bool:
        return self.ready.done() and not self.ready.cancelled()

    def end(self, wanted: signal.Signals) -> None:
        """Send a signal; one that has ended already, and was not waited for yet, needs none."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(wanted)


class Supervisor:
    """Run `count` workers; `run` returns the exit status.

    `settings` are told to each worker in full, `clock` is monotonic, `grace_s` is what running answers have
    to end at a stop.
    """

    def __init__(
        self,
        command: Command,
        listeners: Listeners,
        settings: dict[str, Any],
        *,
        count: int,
        grace_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._command = command
        self._listeners = listeners
        self._settings = settings
        self._count = count
        self._grace_s = grace_s
        self._clock = clock
        self._admission = Admission(clock)
        self._workers: list[_Worker] = []
        self._ended: Numbers | None = None
        self._stopping = asyncio.Event()
        self._status = 0
        self._last_call = 0
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start the workers, one first: what keeps it from starting would keep the others too."""
        forget_wakeups()
        for wanted in ENDING:
            listen_to(wanted, self._stop)
        listen_to(signal.SIGHUP, self._reload_all)
        first = await self._start()
        ended = asyncio.ensure_future(first.process.wait())
        either: set[asyncio.Future[Any]] = {first.ready, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not first.listens and not self._stopping.is_set():
            _log.error("the first worker did not start; the log above says why")
            self._stopping.set()
            self._status = 1
        keeping = [self._keep(first), *(self._keep(None) for _ in range(self._count - 1))]
        tasks = [asyncio.create_task(each) for each in keeping]
        await self._stopping.wait()
        self._listeners.close()
        await asyncio.wait(tasks, timeout=self._grace_s + _OVER_GRACE_S)
        for worker in self._workers:
            _log.error("worker %d did not end in time and is killed", worker.process.pid)
            worker.end(signal.SIGKILL)
            self._status = 1
        await asyncio.gather(*tasks, ended)
        return self._status

    def _stop(self) -> None:
        """End every worker in good order; a signal that they got themselves does no harm twice."""
        if not self._stopping.is_set():
            _log.info("stopping %d workers", len(self._workers))
        self._stopping.set()
        for worker in self._workers:
            worker.end(signal.SIGTERM)

    def _reload_all(self) -> None:
        for worker in self._workers:
            self._answer(self._do(worker, "reload", _RELOAD_S))

    async def _keep(self, worker: _Worker | None) -> None:
        """Have one worker running until the stop."""
        loop, pause_s = asyncio.get_running_loop(), SHORTEST_PAUSE_S
        while worker is not None or not self._stopping.is_set():
            began_s = loop.time()
            try:
                why = await self._end_of(worker or await self._start())
            except OSError as fault:
                why = f"could not be started: {fault}"
            worker = None
            if self._stopping.is_set():
                return
            pause_s = SHORTEST_PAUSE_S if loop.time() - began_s >= SOUND_S else pause_s
            _log.error("a worker %s; another one starts in %.1f s", why, pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _end_of(self, worker: _Worker) -> str:
        """Wait for a worker's end, whichever it is, and say what it was."""
        status = await worker.process.wait()
        self._bury(worker)
        # At a stop, one that was still being started has no way yet to end otherwise.
        well = status in (0, -signal.SIGTERM, -signal.SIGINT) if self._stopping.is_set() else False
        self._status = self._status if well or not self._stopping.is_set() else 1
        return f"died (status {status})"

    async def _start(self) -> _Worker:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs, self._listeners.next() as listener:
            fds = theirs.fileno(), listener.fileno()
            process = await asyncio.create_subprocess_exec(
                *self._command(*fds), stdin=asyncio.subprocess.DEVNULL, pass_fds=fds
            )
        line: Line[FromWorker] = Line(FromWorker, lambda said: self._hear(worker, said), lambda: None)
        desk = Desk(self._admission, self._clock, line.say)
        worker = _Worker(process, line, desk, loop.create_future())
        self._workers.append(worker)
        await loop.create_unix_connection(lambda: line, sock=ours)
        line.say(Begin(self._settings, self._count))
        if self._stopping.is_set():
            worker.end(signal.SIGTERM)
        return worker

    def _bury(self, worker: _Worker) -> None:
        """Give back what a worker held, and keep what it had counted."""
        self._workers.remove(worker)
        worker.line.close()
        worker.desk.close()
        worker.ready.cancel()
        for doing in worker.doing.values():
            doing.cancel()
        if worker.numbers is not None:
            numbers = worker.numbers.ended()
            self._ended = numbers if self._ended is None else added([self._ended, numbers])
        self._tell_all()

    def _hear(self, worker: _Worker, said: FromWorker) -> None:
        match said:
            case Ready():
                worker.ready.set_result(None)
                self._tell_all()
                if len(self._listening()) == self._count:
                    _log.info("%d workers are ready", self._count)
            case Gather():
                worker.numbers = _NUMBERS.decode(said.numbers)
                self._answer(self._gather(worker, said.call))
            case ReloadOthers():
                self._answer(self._reload_others(worker, said.call))
            case Done():
                doing = worker.doing.pop(said.call, None)
                if doing is not None and not doing.done():
                    doing.set_result(said.result)
            case _:
                worker.desk.hear(said)

    def _listening(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.listens]

    def _tell_all(self) -> None:
        listening = self._listening()
        for worker in listening:
            worker.line.say(Crew(len(listening)))

    async def _gather(self, asker: _Worker, call: int) -> None:
        """Answer with the numbers of all others; one that does not answer counts with its last ones."""
        others = [worker for worker in self._listening() if worker is not asker]
        told = await asyncio.gather(*(self._do(worker, "numbers", _NUMBERS_S) for worker in others))
        for worker, numbers in zip(others, told, strict=True):
            worker.numbers = _NUMBERS.decode(numbers) if numbers else worker.numbers
        found = [worker.numbers for worker in others] + [self._ended]
        asker.line.say(Gathered(call, [_encode(numbers) for numbers in found if numbers is not None]))

    async def _reload_others(self, asker: _Worker, call: int) -> None:
        others = [worker for worker in self._listening() if worker is not asker]
        await asyncio.gather(*(self._do(worker, "reload", _RELOAD_S) for worker in others))
        asker.line.say(Gathered(call, []))

    async def _do(self, worker: _Worker, what: str, wait_s: float) -> bytes:
        """Have a worker do something; returns nothing when it takes too long or dies."""
        self._last_call += 1
        doing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        worker.doing[self._last_call] = doing
        worker.line.say(Do(self._last_call, what))
        await asyncio.wait({doing}, timeout=wait_s)
        return doing.result() if doing.done() and not doing.cancelled() else b""

    def _answer(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)


_NUMBERS = msgspec.msgpack.Decoder(Numbers)
_encode: Callable[[Message | Numbers], bytes] = msgspec.msgpack.Encoder().encode
