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
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s) as client:
        tasks = {
            asyncio.create_task(_models(client, provider.base_url)): provider.name for provider in targets
        }
        done, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    answers = {tasks[task]: task.result() for task in done}
    return {name: server for name, server in sorted(answers.items()) if server is not None}


async def _models(client: httpx.AsyncClient, base_url: str) -> LocalServer | None:
    try:
        answer = await client.get(f"{base_url}/models")
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    try:
        return _listed(json.loads(answer.content))
    except ValueError:
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
    meta = row.get("meta")
    for value in (row.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
