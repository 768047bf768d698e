"""Local model servers are found over real loopback sockets, or left out in time."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest

from router.catalog.local import LocalServer
from router.catalog.snapshot import Limits, Provider, Timeouts
from router.upstream.discover import probe_local

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
PATIENT_S = 5.0
READS_CERTIFICATES = {"load_verify_locations", "set_default_verify_paths", "load_default_certs"}


def provider(port: int, *, name: str = "ollama", key_env: str | None = None) -> Provider:
    return Provider(
        name=name,
        title=name,
        base_url=f"http://127.0.0.1:{port}/v1",
        key_env=key_env,
        timeouts=Timeouts(),
        limits=Limits(),
        pays="none",
        pay_to=None,
        headers=(),
    )


class Server:
    """Answer every request with one function and remember the request lines."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.partition(b"\r\n")[0].decode())
            await self.answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left, as it may
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def says(body: object, status: str = "200 OK", headers: str = "") -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(raw)}\r\nconnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + raw)
        await writer.drain()

    return answer


def test_a_server_says_its_models_and_their_context() -> None:
    rows = [
        {"id": "gpt-oss:20b", "object": "model"},
        {"id": "qwen", "max_model_len": 32_768},
        {"id": "phi", "meta": {"n_ctx": 4_096}},
        {"id": "odd", "max_model_len": True},
        {"name": "no id"},
    ]

    async def run() -> tuple[dict[str, LocalServer], list[str]]:
        async with serving(says({"object": "list", "data": rows})) as server:
            found = await probe_local([provider(server.port)], PATIENT_S, ports={server.port: "Ollama"})
            return found, server.requests

    found, requests = asyncio.run(run())
    assert found == {
        "ollama": LocalServer({"gpt-oss:20b": None, "qwen": 32_768, "phi": 4_096, "odd": None}),
    }
    assert requests == ["GET /v1/models HTTP/1.1"]


@pytest.mark.parametrize(
    ("props", "context_tokens"),
    [
        (says({"default_generation_settings": {"n_ctx": 4_096}}), 4_096),
        (says({"default_generation_settings": None}), None),
        (says({"error": "no"}, "404 Not Found"), None),
        (says(b"<html>"), None),
    ],
)
def test_an_older_llama_cpp_says_its_context_elsewhere(props: Answer, context_tokens: int | None) -> None:
    listed = says({"data": [{"id": "gemma", "meta": {"n_ctx_train": 32_768}}]})

    async def run() -> tuple[dict[str, LocalServer], list[str]]:
        answers = iter([listed, props])

        async def in_turn(writer: asyncio.StreamWriter) -> None:
            await next(answers)(writer)

        async with serving(in_turn) as server:
            found = await probe_local([provider(server.port)], PATIENT_S, ports={server.port: "llama.cpp"})
            return found, server.requests

    found, requests = asyncio.run(run())
    assert found == {"ollama": LocalServer({"gemma": context_tokens})}
    assert requests == ["GET /v1/models HTTP/1.1", "GET /props HTTP/1.1"]


@pytest.mark.parametrize(
    "answer",
    [
        says({"error": "no"}, "404 Not Found"),
        says({}, "302 Found", "location: /v1/models\r\n"),
        says(b"<html>"),
        says([1]),
        says({"data": "x"}),
        says(b"\xff\xfe"),
    ],
)
def test_what_is_no_model_list_means_absent(answer: Answer) -> None:
    async def run() -> tuple[dict[str, LocalServer], int]:
        async with serving(answer) as server:
            found = await probe_local([provider(server.port)], PATIENT_S, ports={server.port: "Ollama"})
            return found, len(server.requests)

    assert asyncio.run(run()) == ({}, 1)


def test_a_closed_port_means_absent() -> None:
    async def run() -> dict[str, LocalServer]:
        async with serving(says({"data": []})) as server:
            port = server.port
        return await probe_local([provider(port)], PATIENT_S, ports={port: "Ollama"})

    assert asyncio.run(run()) == {}


def test_a_silent_server_holds_up_nobody() -> None:
    """The silent one answers only once the probe is over, so waiting for it would never end."""

    async def run() -> dict[str, LocalServer]:
        over = asyncio.Event()

        async def silent(writer: asyncio.StreamWriter) -> None:
            await over.wait()

        async with serving(silent) as mute, serving(says({"data": [{"id": "a"}]})) as quick:
            providers = [provider(mute.port, name="vllm"), provider(quick.port)]
            ports = {mute.port: "vLLM", quick.port: "Ollama"}
            found = await probe_local(providers, 1.0, ports=ports)
            over.set()
            return found

    assert asyncio.run(run()) == {"ollama": LocalServer({"a": None})}


def test_only_keyless_providers_on_the_known_ports_are_asked() -> None:
    async def run() -> tuple[dict[str, LocalServer], list[str]]:
        async with serving(says({"data": []})) as server:
            keyed = provider(server.port, key_env="SOME_KEY")
            found = await probe_local([keyed], PATIENT_S, ports={server.port: "Ollama"})
            found |= await probe_local([provider(server.port)], PATIENT_S, ports={server.port + 1: "Ollama"})
            return found, server.requests

    assert asyncio.run(run()) == ({}, [])


def test_no_certificates_are_read_for_plain_http() -> None:
    """Reading them stops the event loop for tens of milliseconds, every time the servers are asked."""
    called: set[str] = set()

    def note(_frame: object, event: str, what: object) -> None:
        if event == "c_call":
            called.add(getattr(what, "__name__", ""))

    async def run(ask: Callable[[int], Awaitable[object]]) -> set[str]:
        called.clear()
        async with serving(says({"data": []})) as server:
            sys.setprofile(note)
            try:
                await ask(server.port)
            finally:
                sys.setprofile(None)
        return called & READS_CERTIFICATES

    async def probe(port: int) -> None:
        assert await probe_local([provider(port)], PATIENT_S, ports={port: "Ollama"})

    async def usual(_port: int) -> None:
        async with httpx.AsyncClient():
            pass

    assert asyncio.run(run(usual))
    assert asyncio.run(run(probe)) == set()


def test_an_https_server_that_nobody_vouches_for_is_absent(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    form = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=local"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([openssl, *form.split(), *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async def run() -> tuple[dict[str, LocalServer], list[str]]:
        server = Server(says({"data": []}))
        listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            secure = replace(provider(port), base_url=f"https://127.0.0.1:{port}/v1")
            found = await probe_local([secure], PATIENT_S, ports={port: "Ollama"})
        return found, server.requests

    assert asyncio.run(run()) == ({}, [])
