"""Measure what a wallet's payment adds to a request: `python -m benchmarks.payments`.

One service, alone on its core, sells by key and by wallet. This process, on the other core, is its client,
its upstream and its facilitator, who answer at once: so all moments are of one clock. By key, and by each
protocol, a request at a time is sent in turn, in an order that changes, each after one that asks the price.
"Checks" is how much later `/verify` arrives than the upstream's call does by key: the time that a payment's
checks add before anybody is asked. Then the 402 for who brings nothing, 16 connections in a closed loop,
against answers by key; and the parts alone, in this process. Exit status 1 when the checks add more than the
1 ms that they may. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks import processes
from benchmarks.machine import ForeignWork, surroundings
from benchmarks.ours import create_key, write_catalog
from benchmarks.paying import SELLING, Payer, parts_alone
from benchmarks.site import Endpoint, Site, Unavailable
from benchmarks.upstream import ANSWER

KEY, KINDS = "key", ("exact", "upto", "evm")
ALLOWED_MS = 1.0
CONNECTIONS = 16
WARM = 30
HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Moments:
    """When things arrived here, in seconds, of the one request that runs."""

    at: dict[str, float] = field(default_factory=dict)
    transfers: int = 0

    def answer(self, head: bytes) -> bytes:
        """Note a call and return its answer, which is a yes."""
        path = head.split(b" ", 2)[1].decode()
        self.at.setdefault(path, time.perf_counter())
        if path == "/verify":
            return _http({"isValid": True})
        if path == "/settle":
            self.transfers += 1
            hash_ = f"0x{self.transfers:064x}"
            return _http({"success": True, "transaction": hash_, "network": "eip155:84532"})
        if path == "/supported":
            kinds = [
                {"x402Version": 2, "scheme": scheme, "network": "eip155:84532", "extra": extra}
                for scheme, extra in (("exact", {}), ("upto", {"facilitatorAddress": "0x" + "fa" * 20}))
            ]
            return _http({"kinds": kinds, "extensions": [], "signers": {}})
        return ANSWER


class Called(asyncio.Protocol):
    """The upstream and the facilitator."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (whole := _whole(self._buffer)) is not None:
            head, self._buffer = self._buffer[:whole], self._buffer[whole:]
            self._transport.write(self._moments.answer(head))


class Client(asyncio.Protocol):
    """One connection; `ended` is called with each answer."""

    def __init__(self, ended: Callable[[bytes], None]) -> None:
        self._ended = ended
        self._buffer = b""
        self.head_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._buffer:
            self.head_s = time.perf_counter()
        self._buffer += data
        if (whole := _whole(self._buffer)) is not None:
            answer, self._buffer = self._buffer[:whole], self._buffer[whole:]
            self._ended(answer)


@dataclass(frozen=True, slots=True)
class One:
    """One request, in seconds from its sending: the first call of ours, the upstream's, head and end."""

    checked_s: float
    called_s: float
    head_s: float
    cpu_s: float = 0.0


class Bench:
    """The connections of this process to the service."""

    def __init__(self, port: int, moments: Moments, payer: Payer) -> None:
        self._port = port
        self._moments = moments
        self.payer = payer
        self._answer: asyncio.Future[bytes] | None = None

    async def connect(self) -> None:
        """Open the connection that requests are sent over one by one."""
        loop = asyncio.get_running_loop()
        _, self._client = await loop.create_connection(lambda: Client(self._ended), "127.0.0.1", self._port)

    def _ended(self, answer: bytes) -> None:
        if self._answer is not None:
            self._answer.set_result(answer)

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return its whole answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._client.transport.write(request)
        return await self._answer

    async def one(self, kind: str) -> One:
        """Send one request that pays by a kind and return its moments. Raises `Unavailable`."""
        request = await self.payer.request(kind, self.ask)
        self._moments.at.clear()
        began_s = time.perf_counter()
        answer = await self.ask(request)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise Unavailable(f"a request by {kind} was answered with {answer[:600]!r}")
        at = self._moments.at
        called_s = at["/v1/chat/completions"]
        checked_s = called_s if kind == KEY else at["/verify"]
        return One(checked_s - began_s, called_s - began_s, self._client.head_s - began_s)

    async def flood(self, requests: Iterator[bytes], status: bytes) -> int:
        """Send requests over CONNECTIONS in a closed loop until they end; return how many were answered."""
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(*(self._loop(loop, requests, status) for _ in range(CONNECTIONS)))
        return sum(answers)

    async def _loop(self, loop: asyncio.AbstractEventLoop, requests: Iterator[bytes], status: bytes) -> int:
        came: asyncio.Queue[bytes] = asyncio.Queue()
        _, client = await loop.create_connection(lambda: Client(came.put_nowait), "127.0.0.1", self._port)
        answered = 0
        for request in requests:
            client.transport.write(request)
            answer = await came.get()
            if not answer.startswith(b"HTTP/1.1 " + status):
                raise Unavailable(f"answered with {answer[:300]!r}")
            answered += 1
        client.transport.close()
        return answered


def repeated(request: bytes, seconds: float) -> Iterator[bytes]:
    """Yield a request for so long."""
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        yield request


@contextmanager
def served(site: Site, port: int) -> Iterator[Endpoint]:
    """Serve with everything switched on that sells over this process's facilitator."""
    folder, own = site.folder("ours"), processes.free_port()
    write_catalog(folder / "catalog", port)
    environ = SELLING | {"ROUTER_X402_FACILITATOR": f"http://127.0.0.1:{port}"}
    key = create_key(site, folder / "data")
    places = ["--port", str(own), "--catalog", str(folder / "catalog"), "--data", str(folder / "data")]
    command = [sys.executable, "-m", "router", "serve", *places]
    with site.gateway(command, folder / "log", port=own, ready=None, environ=environ) as (_, pid, _):
        yield Endpoint(own, pid, authorization=f"Bearer {key}")


async def measure(site: Site, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure everything; returns lists of seconds by kind, and what the floods came to."""
    moments, loop = Moments(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Called(moments), "127.0.0.1", 0)
    with served(site, server.sockets[0].getsockname()[1]) as endpoint:
        assert endpoint.pid is not None
        assert endpoint.authorization is not None
        await _ready(endpoint.port)
        payer = Payer(endpoint.port, endpoint.authorization)
        bench = Bench(endpoint.port, moments, payer)
        await bench.connect()
        kinds = (KEY, *KINDS)
        for _ in range(WARM):
            for kind in kinds:
                await bench.one(kind)
        found: dict[str, list[One]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            turn = number % len(kinds)
            for kind in kinds[turn:] + kinds[:turn]:
                found[kind].append(await bench.one(kind))
        turns = [{kind: await _cpu_us(bench, kind, endpoint.pid, rounds) for kind in kinds} for _ in range(3)]
        cpu_us = {kind: statistics.median(turn[kind] for turn in turns) for kind in kinds}
        floods: dict[str, list[tuple[float, float]]] = {"402": [], KEY: []}
        for _ in range(5):
            for name, request, status in (
                ("402", payer.plain(""), b"402"),
                (KEY, payer.plain(f"authorization: {endpoint.authorization}\r\n"), b"200"),
            ):
                before_s = processes.cost(endpoint.pid).cpu_s
                answered = await bench.flood(repeated(request, seconds), status)
                used_s = processes.cost(endpoint.pid).cpu_s - before_s
                floods[name].append((answered / seconds, used_s * 1e6 / answered))
    server.close()
    return {"one": found, "cpu_us": cpu_us, "floods": floods}


async def _cpu_us(bench: Bench, kind: str, pid: int, count: int) -> float:
    """Return CPU microseconds of the service for a paying request of many at once, its price known."""
    requests = [await bench.payer.request(kind, bench.ask) for _ in range(count)]
    before_s = processes.cost(pid).cpu_s
    await bench.flood(iter(requests), b"200")
    return (processes.cost(pid).cpu_s - before_s) * 1e6 / count


async def _ready(port: int) -> None:
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.write(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        told = await reader.read()
        writer.close()
        if told.startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(0.02)
    raise Unavailable("the service did not become ready")


def summary(measured: dict[str, Any]) -> tuple[str, float]:
    """Return the tables, and the most that the checks add, in ms at p50."""
    one: dict[str, list[One]] = measured["one"]
    base = {part: _ms([getattr(each, part) for each in one[KEY]]) for part in ("checked_s", "head_s")}
    after = statistics.median(each.head_s - each.called_s for each in one[KEY]) * 1e3
    heads = ("first call, ms", "checks add", "head, ms", "after upstream", "CPU us")
    lines = ["p10, p50 and p99 of each:", "by".ljust(8) + "".join(head.rjust(24) for head in heads)]
    worst = 0.0
    for kind, found in one.items():
        first, head = _ms([each.checked_s for each in found]), _ms([each.head_s for each in found])
        added = [now - then for now, then in zip(first, base["checked_s"], strict=True)]
        settled = statistics.median(each.head_s - each.called_s for each in found) * 1e3 - after
        worst = max(worst, added[1])
        cells = (
            " ".join(f"{ms:.2f}" for ms in first),
            "" if kind == KEY else " ".join(f"{ms:+.2f}" for ms in added),
            " ".join(f"{ms:.2f}" for ms in head),
            "" if kind == KEY else f"{settled:+.2f}",
            f"{measured['cpu_us'][kind]:.0f}",
        )
        lines.append(kind.ljust(8) + "".join(cell.rjust(24) for cell in cells))
    for name, turns in measured["floods"].items():
        rates, cpu_us = zip(*turns, strict=True)
        lines.append(
            f"{name}, {CONNECTIONS} connections: {statistics.median(rates):,.0f} a second"
            f" ({min(rates):,.0f} to {max(rates):,.0f}), CPU {statistics.median(cpu_us):.0f} us"
            f" ({min(cpu_us):.0f} to {max(cpu_us):.0f})"
        )
    return "\n".join(lines), worst


def _ms(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return p10, p50 and p99."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return cuts[9] * 1e3, cuts[49] * 1e3, cuts[98] * 1e3


def _http(told: object) -> bytes:
    body = json.dumps(told).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _whole(data: bytes) -> int | None:
    """Return the length of the message that begins `data`, None while it is not all here."""
    end = data.find(HEAD_END)
    if end < 0:
        return None
    at = data[:end].lower().find(b"\r\ncontent-length: ")
    length = 0 if at < 0 else int(data[at + 18 : data.index(b"\r\n", at + 2)])
    return end + 4 + length if len(data) >= end + 4 + length else None


def main() -> None:
    """Print what a payment adds."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.payments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=300, help="requests of each kind (default 300)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each flood (default 1)")
    parser.add_argument("--json", action="store_true", help="print every request as JSON")
    told = parser.parse_args()
    cores, foreign = sorted(os.sched_getaffinity(0)), ForeignWork()
    with tempfile.TemporaryDirectory(prefix="router-payments-") as home:
        about = surroundings(Path(home))
        site = Site(Path(home), Path(home), cores[0], cores[-1])
        try:
            with processes.pinned(site.load_core):
                measured = uvloop.run(measure(site, told.rounds, told.seconds))
                alone = parts_alone(Path(home))
        except (Unavailable, processes.NotReady) as failed:
            sys.exit(f"error: {failed}")
    text, worst_ms = summary(measured)
    if told.json:
        one = {
            kind: [[each.checked_s, each.called_s, each.head_s] for each in found]
            for kind, found in measured["one"].items()
        }
        print(json.dumps(about | measured | {"one": one, "alone_us": alone}))
    else:
        machine = about["machine"]
        others = f"other programs used {100 * foreign.share():.0f} % of the machine"
        print(f"{machine['cpu']}, {machine['cores']} cores, {about['commit']}; {others}")
        print(text)
        print("alone, us: " + ", ".join(f"{name} {us:.0f}" for name, us in alone.items()))
    sys.exit(worst_ms > ALLOWED_MS)


if __name__ == "__main__":
    main()
