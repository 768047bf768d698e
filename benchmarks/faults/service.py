"""The service under test: its own process, its catalog, its key, and the hand that ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.faults.book import INPUT_NUSD, MODELS, OUTPUT_NUSD
from benchmarks.faults.upstream import dumps
from benchmarks.processes import free_port
from router.ledger.engines import open_storage
from router.ledger.payments import Payment
from router.ledger.rows import Difference, Row, utc_text

READY_S = 30.0
END_S = 40.0
POLL_S = 0.005


def write_catalog(
    folder: Path,
    upstream_port: int,
    limits: str = "",
    price: tuple[int, int] = (INPUT_NUSD, OUTPUT_NUSD),
    of_all: str = "",
) -> None:
    """Write two models at one provider, the second a fallback of the first, which may have limits.

    `price` is that of a token of input and output, in nano-USD; `of_all` are the provider's limits.
    """
    (folder / "providers").mkdir(parents=True)
    address = f"http://127.0.0.1:{upstream_port}/v1"
    (folder / "providers" / "fault.toml").write_text(
        f'name = "Fault"\nbase_url = "{address}"\npays = "none"\n'
        + (f"limits = {{ {of_all} }}\n" if of_all else "")
    )
    told = f"{{ input = {price[0] / 1_000}, output = {price[1] / 1_000} }}"
    for model in MODELS:
        file = folder / "models" / f"{model}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f'name = "{model}"\ncontext = 100_000\nmax_output = 4_096\ninput = ["text"]\n'
            f'[[offers]]\nprovider = "fault"\nmodel = "{model}"\nprice = {told}\n'
            + (f"limits = {{ {limits} }}\n" if limits and model == MODELS[0] else "")
        )


@dataclass
class Service:
    """One router over one ledger, started again and again on the same port."""

    folder: Path
    upstream_port: int
    environ: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    authorization: str = ""  # default: a new key with more credit than is ever used
    limits: str = ""  # of the first model's offer
    price: tuple[int, int] = (INPUT_NUSD, OUTPUT_NUSD)
    limits_of_all: str = ""  # of the provider
    data: Path = field(init=False)
    starts_s: list[float] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.data = self.folder / "data"
        write_catalog(
            self.folder / "catalog", self.upstream_port, self.limits, self.price, self.limits_of_all
        )
        self._log = (self.folder / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        if not self.authorization:
            self.authorization = self.make_key("1000000")

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def database_url(self) -> str | None:
        """Return the address of the ledger's server, None for a file below `data`."""
        return self.environ.get("ROUTER_DATABASE_URL")

    def make_key(self, credit_usd: str) -> str:
        """Make a key with credit of its own and return the header's value."""
        made = self.run("keys", "create", "--name", "faults", "--credit", credit_usd, "--json")
        return f"Bearer {json.loads(made.stdout)['key']}"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `router` over the service's data; raises CalledProcessError."""
        return subprocess.run(
            [*_ROUTER, *arguments, "--data", str(self.data)],
            env=self._environ(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )

    async def start(self, *, open_at_once: bool = True) -> float:
        """Start and wait for readiness; returns the seconds between. Raises RuntimeError with the log.

        The load goes on from then, or with `open_at_once` False once `ready` is set.
        """
        places = ["--port", str(self.port), "--catalog", str(self.folder / "catalog")]
        began_s = time.monotonic()
        command = [*_ROUTER, "serve", *places, "--data", str(self.data), "--workers", str(self.workers)]
        self._process = process = await asyncio.to_thread(self._spawn, command)
        while not await self.is_ready():
            if process.poll() is not None or time.monotonic() - began_s > READY_S:
                raise RuntimeError(f"the service did not become ready:\n{self.log_end()}")
            await asyncio.sleep(POLL_S)
        self.starts_s.append(time.monotonic() - began_s)
        if open_at_once:
            self.ready.set()
        return self.starts_s[-1]

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=self._environ(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    async def is_ready(self) -> bool:
        """Ask on a new connection whether every worker is ready."""
        status, body = await self.fetch("/health/ready")
        return status == 200 and json.loads(body).get("workers", 1) == self.workers

    async def get(self, path: str) -> int | None:
        """Return the status of a GET on a new connection; None where nobody listens."""
        return (await self.fetch(path))[0]

    async def fetch(self, path: str, body: object = None) -> tuple[int | None, bytes]:
        """Return status and body of a GET, or a POST of JSON, on a new connection; None: nobody listens."""
        sent = b"" if body is None else dumps(body)
        head = (
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            f"authorization: {self.authorization}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(sent)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return None, b""
        try:
            writer.write(head.encode() + sent)
            got, _, rest = (await reader.read()).partition(b"\r\n\r\n")
            return (int(got.split()[1]) if got else None), rest
        except OSError:
            return None, b""
        finally:
            writer.close()

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers (Linux)."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(child) for child in path.read_text().split()]

    async def kill(self) -> None:
        """End it by SIGKILL, children included, and wait until it is gone."""
        self.ready.clear()
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal to the process and its children and return the exit status."""
        os.killpg(self.pid, number)
        return await self.gone()

    async def gone(self) -> int:
        """Wait until the process has ended and return its exit status."""
        assert self._process is not None
        return await asyncio.wait_for(asyncio.to_thread(self._process.wait), END_S)

    def close(self) -> None:
        """End what is left."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def log_end(self) -> str:
        """Return the last of what it printed."""
        return (self.folder / "log").read_text(errors="replace")[-3_000:]

    async def payments(self) -> list[Payment]:
        """Return what became of every payment."""
        storage = await open_storage(self.data, self.database_url)
        try:
            return [payment async for payment in storage.payments.all()]
        finally:
            await storage.close()

    async def note_refusal(self, account: str) -> None:
        """Note that a payer's settlement was refused when its answer was made: it pays first from now on."""
        now, before = datetime.now(UTC), datetime.now(UTC) - timedelta(days=1)
        stamps = {"now": utc_text(now.timestamp()), "before": utc_text(before.timestamp())}
        storage = await open_storage(self.data, self.database_url)
        try:
            await storage.payments.note_refusal(account, **stamps)
        finally:
            await storage.close()

    async def rows(self) -> list[Row]:
        """Return every row of its ledger."""
        storage = await open_storage(self.data, self.database_url)
        try:
            return [row async for row in storage.books.rows()]
        finally:
            await storage.close()

    async def differences(self) -> list[Difference]:
        """Return the sums that do not add up."""
        storage = await open_storage(self.data, self.database_url)
        try:
            return await storage.books.check()
        finally:
            await storage.close()

    def _environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
        return kept | {"ROUTER_ACCESS": "paid", "ROUTER_DECISION_LOG_MIB": "0"} | dict(self.environ)


_ROUTER = (sys.executable, "-m", "router")


def open_holds(rows: list[Row]) -> int:
    """Count the holds without an end."""
    holds = sum(row.kind == "hold" for row in rows)
    return holds - sum(row.kind in ("settle", "release") for row in rows)
