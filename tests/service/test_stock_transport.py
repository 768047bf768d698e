"""A provider with `transport = "stock"`: httpx's own transport through the router, and behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.router import Offered, RouterServer, write_catalog
from tests.service.walking import Client, question, sse_data, wait_all_ended, wait_for
from tests.upstream import (
    Behaviour,
    Gate,
    ScriptedUpstream,
    answer,
    hang,
    refused_base_url,
    reset,
    status,
    stream,
)

STOCK, FAST = "test/stock", "test/fast"


class RecordingProxy:
    """A forward proxy for http, in a thread of its own; `targets` holds what it was asked for."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                tasks.append(group.create_task(self._relay(reader, writer)))

            tasks: list[asyncio.Task[None]] = []
            server = await asyncio.start_server(connected, "127.0.0.1", 0)
            self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._ready.set()
            await self._stop.wait()
            server.close()
            for task in tasks:
                task.cancel()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send a client's requests to the address in its first one, and the answers back."""
        first = await reader.readuntil(b"\r\n")
        host, _, port = first.split(b"/")[2].decode().partition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        answers = asyncio.create_task(_pump(up_reader, writer))
        try:
            data = first + await reader.readuntil(b"\r\n\r\n")
            while data:
                up_writer.write(self._in_origin_form(data))
                data = await reader.read(65_536)
        finally:
            answers.cancel()
            writer.close()
            up_writer.close()

    def _in_origin_form(self, data: bytes) -> bytes:
        """Note the target of a request, which a read begins with, and leave its path (RFC 9112, 3.2)."""
        line, end, rest = data.partition(b"\r\n")
        if not line.startswith(b"POST http://"):
            return data
        method, target, version = line.split()
        self.targets.append(target.decode())
        path = b"/" + target.split(b"/", 3)[3]
        return b" ".join((method, path, version)) + end + rest


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[RecordingProxy]:
    with RecordingProxy() as server:
        yield server


@pytest.fixture
def catalog(up: ScriptedUpstream, tmp_path: Path) -> Path:
    """Write one model behind the stock transport and one behind our own, at the same upstream."""
    addresses = {"slowpath": up.base_url, "fastpath": up.base_url}
    models = [Offered(STOCK, provider="slowpath"), Offered(FAST, provider="fastpath")]
    folder = write_catalog(tmp_path / "catalog", addresses, models)
    file = folder / "providers" / "slowpath.toml"
    file.write_text(file.read_text() + 'transport = "stock"\n')
    return folder


@pytest.fixture
def router(catalog: Path, tmp_path: Path) -> Iterator[RouterServer]:
    with RouterServer(catalog, tmp_path / "data") as server:
        yield server


def test_plain_and_streamed_answers_pass(router: RouterServer, up: ScriptedUpstream) -> None:
    up.on(STOCK, answer("plain"), stream("one two three"), answer("again"))

    plain = router.chat(model=STOCK)
    streamed = router.chat(model=STOCK, stream=True)
    wait_for(
        lambda: True if router.inflight() == 0 else None, "the end of the stream"
    )  # [DONE] comes before it
    again = router.chat(model=STOCK)

    assert plain.json["choices"][0]["message"]["content"] == "plain"
    assert plain.json["usage"]["cost"] > 0
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed.chunks())
    assert (text, streamed.events()[-1]) == ("one two three", "[DONE]")
    assert streamed.chunks()[-1]["usage"]["cost"] > 0
    assert again.status == 200
    assert up.total_connections == 1


def test_events_pass_while_the_upstream_still_writes(router: RouterServer, up: ScriptedUpstream) -> None:
    gate = Gate()
    up.on(STOCK, stream("one two three", gate=gate, gate_after=2))
    client = Client(router, question(model=STOCK, stream=True))

    client.head()
    client.read_until(b"one")
    gate.open()

    assert sse_data(client.read_rest())[-1] == "[DONE]"


@pytest.mark.parametrize("fault", [status(500), reset(), status(429)])
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_faults_lead_to_the_next_offer(
    router: RouterServer, up: ScriptedUpstream, fault: Behaviour, streams: bool
) -> None:
    up.on(STOCK, fault)
    up.on(FAST, stream("well") if streams else answer("well"))

    got = router.chat(model=STOCK, models=[FAST], stream=streams)

    assert (got.status, got.headers["x-llm-router-resolved-model"]) == (200, FAST)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_leaving_clients_close_the_upstream_and_the_pool_goes_on(
    router: RouterServer, up: ScriptedUpstream, streams: bool
) -> None:
    up.on(STOCK, stream("one two three", hang_after=2) if streams else hang())
    for _ in range(20):
        called = len(up.requests)
        client = Client(router, question(model=STOCK, stream=streams))
        up.wait_requests(called + 1)
        client.leave()
    up.wait_abandoned(20, 3)

    up.on(STOCK, answer("fine"))
    assert [router.chat(model=STOCK).status for _ in range(10)] == [200] * 10
    wait_all_ended(router)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_environments_proxy_is_for_the_stock_transport_alone(
    catalog: Path, tmp_path: Path, up: ScriptedUpstream, proxy: RecordingProxy, variable: str
) -> None:
    up.on(STOCK, answer("through the proxy"), stream("through the proxy"))
    up.on(FAST, answer("directly"))
    with RouterServer(catalog, tmp_path / "data", environ={variable: proxy.address}) as router:
        plain = router.chat(model=STOCK)
        streamed = router.chat(model=STOCK, stream=True)
        assert proxy.targets == [f"{up.base_url}/chat/completions"] * 2
        assert router.chat(model=FAST).json["choices"][0]["message"]["content"] == "directly"

    assert plain.json["choices"][0]["message"]["content"] == "through the proxy"
    assert streamed.events()[-1] == "[DONE]"
    assert len(proxy.targets) == 2


def test_no_proxy_exempts_an_address(
    catalog: Path, tmp_path: Path, up: ScriptedUpstream, proxy: RecordingProxy
) -> None:
    environ = {"HTTP_PROXY": proxy.address, "NO_PROXY": f"127.0.0.1:{up.port}"}
    with RouterServer(catalog, tmp_path / "data", environ=environ) as router:
        assert router.chat(model=STOCK).status == 200

    assert proxy.targets == []


def test_a_proxy_that_cannot_be_reached_is_a_fault_of_this_offer(
    catalog: Path, tmp_path: Path, up: ScriptedUpstream
) -> None:
    with refused_base_url() as nobody:
        environ = {"HTTP_PROXY": nobody.removesuffix("/v1")}
        with RouterServer(catalog, tmp_path / "data", environ=environ) as router:
            alone = router.chat(model=STOCK)
            saved = router.chat(model=STOCK, models=[FAST])

    assert (alone.status, alone.error["name"]) == (502, "upstream_error")
    assert nobody.split(":")[-1].removesuffix("/v1") not in alone.body.decode()
    assert (saved.status, saved.headers["x-llm-router-resolved-model"]) == (200, FAST)
