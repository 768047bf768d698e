"""A real router for tests: the real app on a real socket, in a thread, with a catalog written to a folder."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
import uvloop

from router.access.wallet import unpayable
from router.api.protocol import Bounds, bounded
from router.app import World, create_app
from router.running import RunningCatalog, Sources
from router.settings import Settings

QUALITY = {"simple": 70, "coding": 70, "reasoning": 70, "vision": 70}
FEATURES = ("tools", "json_schema", "json_mode", "reasoning")


@dataclass
class Offered:
    """One model of a test's catalog, with one offer; prices in USD per million tokens."""

    id: str
    provider: str = "scripted"
    upstream: str | None = None
    price: tuple[float, float] = (1.0, 2.0)
    quality: Mapping[str, float] | None = field(default_factory=lambda: dict(QUALITY))
    context: int = 100_000
    max_output: int = 8_000
    input: tuple[str, ...] = ("text", "image")
    features: tuple[str, ...] = FEATURES
    limits: str = ""
    extra: str = ""

    def toml(self) -> str:
        """Write the model's file."""
        quality = ""
        if self.quality is not None:
            numbers = "\n".join(f"{name} = {value}" for name, value in self.quality.items())
            quality = f'[quality]\n{numbers}\nsource = "a test"\nas_of = 2026-11-01\n'
        limits = f"limits = {{ {self.limits} }}\n" if self.limits else ""
        return (
            f'name = "{self.id}"\ncontext = {self.context}\nmax_output = {self.max_output}\n'
            f"input = {json.dumps(list(self.input))}\nfeatures = {json.dumps(list(self.features))}\n"
            f'{quality}[[offers]]\nprovider = "{self.provider}"\nmodel = "{self.upstream or self.id}"\n'
            f"price = {{ input = {self.price[0]}, output = {self.price[1]} }}\nprice_as_of = 2026-11-01\n"
            f"{limits}{self.extra}\n"
        )


def write_catalog(
    folder: Path, base_urls: Mapping[str, str], models: list[Offered], *, provider: str = "", policy: str = ""
) -> Path:
    """Write a catalog: providers by name and address, models, more lines for each provider, policy.toml."""
    (folder / "providers").mkdir(parents=True, exist_ok=True)
    for name, base_url in base_urls.items():
        text = f'name = "{name}"\nbase_url = "{base_url}"\n{provider}\n'
        (folder / "providers" / f"{name}.toml").write_text(text)
    for model in models:
        file = folder / "models" / f"{model.id}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(model.toml())
    if policy:
        (folder / "policy.toml").write_text(policy)
    return folder


class Asking:
    """Ask a router on this machine."""

    port: int

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request over a connection of its own; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def inflight(self) -> int:
        """Return how many requests are in progress, as the metrics tell."""
        lines = self.request("GET", "/metrics").body.decode().splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith("router_inflight{"))

    def chat(
        self, prompt: str = "Say hello", *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Answer:
        """Ask for one chat completion."""
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], **fields}
        return self.request("POST", "/v1/chat/completions", body, headers)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


class RouterServer(Asking):
    """Serve the app until the `with` block ends; `log` holds what it wrote about requests."""

    def __init__(
        self,
        catalog: Path,
        data: Path,
        *,
        environ: Mapping[str, str] | None = None,
        bounds: Bounds | None = None,
        **settings: Any,
    ) -> None:
        self.data = data
        self.database_url: str | None = settings.get("database_url")
        self.log = io.StringIO()
        self._bounds = bounds or Bounds()
        self.settings = Settings(data=data, catalog=catalog, log="json", **settings)
        sources = Sources(
            directory=catalog,
            environ=environ or {},
            today=lambda: datetime.now(UTC).date(),
            demo=self.settings.demo,
            demo_when_empty=not self.settings.asks_for_key,
            unpayable=lambda: unpayable(self.settings, data),
        )
        self.catalog = RunningCatalog(sources, {})
        self._skipped_s = self._stepped_s = 0.0
        self._world = World(
            environ=environ or {}, log_stream=self.log, monotonic=self._monotonic, now=self.now
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(512)
        self.port = self._socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.origin}/v1"
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="router")

    def _monotonic(self) -> float:
        return time.monotonic() + self._skipped_s

    def now(self) -> datetime:
        """Return the time of day as the router sees it."""
        return datetime.now(UTC) + timedelta(seconds=self._stepped_s)

    def step(self, seconds: float) -> None:
        """Step the router's wall clock, forwards or back; nothing else moves."""
        self._stepped_s += seconds

    def skip(self, seconds: float) -> None:
        """Let time pass for the router; what rests after failures is tried again."""
        self._skipped_s += seconds

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            app = create_app(self.settings, self.catalog, self._world)
            config = uvicorn.Config(
                app,
                http=bounded(self._bounds),
                ws="none",
                lifespan="on",
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
            self._server = _Server(config, self._ready)
            await self._server._serve(sockets=[self._socket])

        try:
            uvloop.run(serve())
        except BaseException as fault:
            self._fault = fault
            raise
        finally:
            self._socket.close()  # nobody may wait for an answer that cannot come
            self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        if self._fault is not None:
            raise RuntimeError("the router did not start") from self._fault
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        if self._thread.is_alive():
            raise RuntimeError("the router did not stop")

    def tasks(self) -> int:
        """Count what runs or waits in the service's event loop, this question included."""

        async def count() -> int:
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(10)

    def connections(self) -> int:
        """Count the clients' connections."""
        return len(self._server.server_state.connections)

    def logged(self) -> list[dict[str, Any]]:
        """Return the request lines of the log."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Return the error object."""
        found: dict[str, Any] = self.json["error"]
        return found

    def events(self) -> list[str]:
        """Return the data of the stream's events, `[DONE]` included."""
        blocks = self.body.decode().split("\n\n")
        return [b.removeprefix("data: ") for b in blocks if b.startswith("data: ")]

    def chunks(self) -> list[dict[str, Any]]:
        """Return the decoded chunks of a stream."""
        return [json.loads(data) for data in self.events() if data != "[DONE]"]
