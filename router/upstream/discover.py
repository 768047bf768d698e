"""Ask the model servers of this machine what they serve, within a fifth of a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx2 as httpx

from router.catalog.local import LOCAL_PORTS, LocalServer, local_program
from router.catalog.snapshot import Provider


async def probe_local(
    providers: Iterable[Provider],
    timeout_s: float = 0.2,
    *,
    ports: Mapping[int, str] = LOCAL_PORTS,
) -> dict[str, LocalServer]:
    """Return what answered, by provider name; asks keyless loopback providers on `ports` only.

    All are asked at once and `timeout_s` bounds the whole; whoever fails or is late is left out.
    """
    targets = [provider for provider in providers if local_program(provider, ports) is not None]
    if not targets:
        return {}
    # To load the certificates takes tens of milliseconds: only where they are needed, and beside the loop.
    secure = any(httpx.URL(provider.base_url).scheme == "https" for provider in targets)
    verify = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False) if secure else False
    async with httpx.AsyncClient(verify=verify, trust_env=False, follow_redirects=False) as client:
        tasks = {
            asyncio.create_task(_models(client, provider.base_url, timeout_s)): provider.name
            for provider in targets
        }
        done, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    answers = {tasks[task]: task.result() for task in done}
    return {name: server for name, server in sorted(answers.items()) if server is not None}


async def _models(client: httpx.AsyncClient, base_url: str, timeout_s: float) -> LocalServer | None:
    body = await _json(client, f"{base_url}/models", timeout_s)
    found = _listed(body)
    if found is not None and _is_older_llama_cpp(body):
        # Half the time, so that a server that is slow to say its context is not lost with it.
        props = await _json(client, str(httpx.URL(base_url).join("/props")), timeout_s / 2)
        found = LocalServer({name: known or _slot_context(props) for name, known in found.models.items()})
    return found


async def _json(client: httpx.AsyncClient, url: str, timeout_s: float) -> Any:
    """Return what a 200 says, None for every other answer."""
    try:
        answer = await client.get(url, timeout=timeout_s)
        return json.loads(answer.content) if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None


def _listed(body: Any) -> LocalServer | None:
    """Read OpenAI's model list; None when the body is something else."""
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return None
    named = [row for row in rows if isinstance(row, dict) and _is_upstream_id(row.get("id"))]
    return LocalServer({row["id"]: _context(row) for row in named})


def _is_upstream_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _context(row: dict[str, Any]) -> int | None:
    """Find the context: vLLM says `max_model_len`, llama.cpp `meta.n_ctx`."""
    return _count(row.get("max_model_len")) or _count(_member(row.get("meta"), "n_ctx"))


def _is_older_llama_cpp(body: Any) -> bool:
    """Say whether the list names the context a model was trained with, but not the one it is served with."""
    metas = [_member(row, "meta") for row in _member(body, "data")]
    return any(_member(meta, "n_ctx_train") and _member(meta, "n_ctx") is None for meta in metas)


def _slot_context(props: Any) -> int | None:
    """Find the context of one request in what llama.cpp's `/props` says."""
    return _count(_member(_member(props, "default_generation_settings"), "n_ctx"))


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
