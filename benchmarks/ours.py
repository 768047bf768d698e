"""Our router as a target: a key with credit, classification, decision, durable hold and accounting all on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import processes
from benchmarks.site import Endpoint, Site, Target, Unavailable
from router import __version__

QUALITY = {"small": (72, 50, 45), "coder": (74, 86, 70), "thinker": (76, 82, 88)}
CONTEXT_TOKENS = 1_048_576  # a prompt of 2 MB is taken for 500,000 tokens
CREDIT_USD = 1_000_000


def write_catalog(folder: Path, upstream_port: int) -> None:
    """Write a catalog of three models that one loopback provider serves, so that `auto` has a choice."""
    (folder / "providers").mkdir(parents=True)
    (folder / "models" / "bench").mkdir(parents=True)
    (folder / "providers" / "bench.toml").write_text(
        f'name = "Bench"\nbase_url = "http://127.0.0.1:{upstream_port}/v1"\npays = "none"\n'
    )
    for price, (name, (simple, coding, reasoning)) in enumerate(QUALITY.items(), start=1):
        (folder / "models" / "bench" / f"{name}.toml").write_text(
            f'name = "Bench {name}"\ncontext = {CONTEXT_TOKENS}\nmax_output = 16_384\ninput = ["text"]\n'
            f'features = ["tools", "json_mode"]\n\n[quality]\nsimple = {simple}\ncoding = {coding}\n'
            f'reasoning = {reasoning}\nsource = "made up for the benchmark"\nas_of = 2026-11-01\n\n'
            f'[[offers]]\nprovider = "bench"\nmodel = "bench"\n'
            f"price = {{ input = 0.{price}, output = 0.{price * 2} }}\n"
        )


def create_key(site: Site, data: Path, environ: Mapping[str, str] | None = None) -> str:
    """Make an API key with credit; returns it. Raises `Unavailable`."""
    command = [sys.executable, "-m", "router", "keys", "create", "--name", "bench"]
    options = ["--credit", str(CREDIT_USD), "--json", "--data", str(data)]
    done = subprocess.run(
        [*command, *options], env=site.environ(environ), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"`router keys create` failed: {done.stderr.strip()[-500:]}")
    key: str = json.loads(done.stdout)["key"]
    return key


@contextmanager
def start(site: Site, upstream_port: int) -> Iterator[Endpoint]:
    """Serve with a fresh catalog, database and key."""
    folder, port = site.folder("ours"), processes.free_port()
    write_catalog(folder / "catalog", upstream_port)
    key = create_key(site, folder / "data")
    places = ["--port", str(port), "--catalog", str(folder / "catalog"), "--data", str(folder / "data")]
    command = [sys.executable, "-m", "router", "serve", *places]
    environ = {"ROUTER_ACCESS": "paid"}
    try:
        with site.gateway(
            command, folder / "log", port=port, ready="/health/ready", environ=environ
        ) as running:
            port, pid, start_s = running
            yield Endpoint(port, pid, authorization=f"Bearer {key}", start_s=start_s)
    finally:
        shutil.rmtree(folder)  # a round writes hundreds of megabytes of rows and log


OURS = Target(
    "ours",
    "API key with credit, classification, decision, durable hold, usage accounting, request and decision log",
    lambda _site: __version__,
    start,
)
