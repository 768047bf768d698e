"""Measure one running target: check it, warm it, apply every phase of load, read CPU and memory."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import processes
from benchmarks.site import Endpoint, Site, Target, Unavailable

WARMUP_S = 1.0
CHECK_S = 30.0
LARGE_PROMPT_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Phase:
    """One load; streams have `events` at `rate` a second, `only` names the targets that it is meant for."""

    name: str
    connections: int
    stream: bool = False
    events: int = 50
    rate: float = 50.0
    prompt_bytes: int = 0
    beside_bytes: int = 0
    only: tuple[str, ...] = ()


# The 2 MB prompts come last: they raise the memory of everything that they pass.
PHASES = (
    Phase("one", 1),
    Phase("first_token", 1, stream=True, events=50, rate=0),
    Phase("first_token_idle", 1, stream=True, events=5, rate=500),
    Phase("c16", 16),
    Phase("c64", 64),
    Phase("c256", 256),
    Phase("prompts_64k", 16, prompt_bytes=65_536),
    Phase("streams_64", 64, stream=True, events=200, rate=100),
    Phase("streams_256", 256, stream=True, events=100, rate=50, only=("direct", "nginx", "ours")),
    Phase("beside_2m", 8, beside_bytes=LARGE_PROMPT_BYTES),
)


def set_profile(upstream_port: int, query: str) -> None:
    """Tell the upstream how to answer from now on."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=10)
    try:
        connection.request("PUT", f"/profile?{query}")
        connection.getresponse().read()
    finally:
        connection.close()


def check(endpoint: Endpoint) -> None:
    """Send one plain and one streamed request; raises `Unavailable` with what is wrong with the answer."""
    for stream in (False, True):
        try:
            status, text = _ask(endpoint, stream)
        except (OSError, http.client.HTTPException) as failed:
            raise Unavailable(f"check: {type(failed).__name__} {failed}") from None
        kind = "a streamed" if stream else "a plain"
        if status != 200:
            raise Unavailable(f"check: {kind} request was answered with {status}: {text[:300]}")
        wanted = ("word", "[DONE]", '"usage"') if stream else ("brown fox", '"usage"')
        if missing := [part for part in wanted if part not in text]:
            raise Unavailable(f"check: the answer to {kind} request lacks {', '.join(missing)}")


def _ask(endpoint: Endpoint, stream: bool) -> tuple[int, str]:
    messages = [{"role": "user", "content": "Say hello."}]
    body: dict[str, Any] = {"model": endpoint.model, "messages": messages, "max_tokens": 16}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"Content-Type": "application/json"}
    if endpoint.authorization is not None:
        headers["Authorization"] = endpoint.authorization
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=CHECK_S)
    try:
        connection.request("POST", endpoint.path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def load(site: Site, endpoint: Endpoint, **options: Any) -> dict[str, Any]:
    """Apply a load in a process of its own on the load's core; raises `NotReady` when it fails.

    `options` are those of the load generator's command line, True and False for its switches.
    """
    command = [sys.executable, "-m", "benchmarks.load", endpoint.url, "--model", endpoint.model]
    if endpoint.authorization is not None:
        command += ["--authorization", endpoint.authorization]
    for name, value in options.items():
        if value is not False:
            flag = f"--{name.replace('_', '-')}"
            command += [flag] if value is True else [flag, str(value)]
    with processes.pinned(site.load_core):
        done = subprocess.run(command, env=site.environ(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no output"]
        raise processes.NotReady(f"the load generator failed: {said[-1][:300]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def run_phase(
    site: Site, endpoint: Endpoint, upstream_port: int, phase: Phase, seconds: float
) -> dict[str, Any]:
    """Apply one phase; the report has `cpu_s` of the target's process tree."""
    set_profile(upstream_port, f"events={phase.events}&rate={phase.rate}&answer=chat")
    before_s = processes.cost(endpoint.pid).cpu_s if endpoint.pid is not None else 0.0
    report = load(
        site,
        endpoint,
        connections=phase.connections,
        seconds=seconds,
        warmup=WARMUP_S,
        stream=phase.stream,
        prompt_bytes=phase.prompt_bytes,
        beside_bytes=phase.beside_bytes,
    )
    if endpoint.pid is not None:
        after = processes.cost(endpoint.pid)
        if not after.rss_mib:
            raise processes.NotReady("the process ended under the load")
        report["cpu_s"] = round(after.cpu_s - before_s, 3)
    if phase.name != "one":
        del report["latency_cdf_ms"]
    report.get("beside", {}).pop("latency_cdf_ms", None)
    return report


def measure(
    site: Site, target: Target, upstream_port: int, seconds: float, said: Callable[[str], None]
) -> dict[str, Any]:
    """Start a target and apply every phase meant for it; raises `Unavailable`.

    `said` is called before each phase. A phase that fails is left out and named in
    "failed"; the others go on as long as the target lives.
    """
    set_profile(upstream_port, "events=5&rate=500&answer=chat")
    said(f"{target.name}: start")
    with target.start(site, upstream_port) as endpoint:
        check(endpoint)
        idle = processes.cost(endpoint.pid) if endpoint.pid is not None else None
        load(site, endpoint, connections=16, seconds=WARMUP_S, warmup=0.2)
        result: dict[str, Any] = {"start_s": round(endpoint.start_s, 3), "phases": {}, "failed": {}}
        for phase in phases_of(target):
            said(f"{target.name}: {phase.name}")
            if endpoint.pid is not None and phase.beside_bytes:
                result["rss_peak_mib"] = round(processes.cost(endpoint.pid).peak_mib, 1)
            try:
                result["phases"][phase.name] = run_phase(site, endpoint, upstream_port, phase, seconds)
            except processes.NotReady as failed:
                result["failed"][phase.name] = str(failed)
        if endpoint.pid is not None and idle is not None:
            result["rss_idle_mib"] = round(idle.rss_mib, 1)
            result["rss_peak_2m_mib"] = round(processes.cost(endpoint.pid).peak_mib, 1)
        return result


def phases_of(target: Target) -> list[Phase]:
    """Return the phases that are meant for a target."""
    return [phase for phase in PHASES if not phase.only or target.name in phase.only]
