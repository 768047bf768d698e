"""A router that buys, for tests: its catalog pays the scripted upstream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.router import Offered, RouterServer, write_catalog
from tests.selling import KEY
from tests.service.walking import wait_for
from tests.upstream import ScriptedUpstream

MODEL, TWIN, FREE = "test/sold", "test/twin", "test/free"
PROTOCOLS = ["x402", "mpp"]


def buyer(
    up: ScriptedUpstream,
    folder: Path,
    pays: str = "x402",
    *,
    provider: str = "",
    models: list[Offered] | None = None,
    free: ScriptedUpstream | None = None,
    free_pays: str = "none",
    **settings: Any,
) -> RouterServer:
    """Return a router whose provider is paid; `free` is another one, which is paid by `free_pays`."""
    catalog = write_catalog(
        folder / "catalog",
        {"scripted": up.base_url},
        models or [Offered(MODEL)],
        provider=f'pays = "{pays}"\n{provider}',
    )
    if free is not None:
        pays = f'pays = "{free_pays}"'
        write_catalog(catalog, {"free": free.base_url}, [Offered(FREE, provider="free")], provider=pays)
    return RouterServer(catalog, folder / "data", **{"wallet_key": KEY, **settings})


def wallet(router: RouterServer) -> dict[str, Any]:
    got = router.request("GET", "/wallet")
    assert got.status == 200, got.body
    found: dict[str, Any] = got.json
    return found


def wait_states(router: RouterServer, *states: str) -> list[dict[str, Any]]:
    """Return the payments, newest first, once their states are these."""

    def look() -> list[dict[str, Any]] | None:
        payments: list[dict[str, Any]] = wallet(router)["payments"]
        return payments if [payment["state"] for payment in payments] == list(states) else None

    return wait_for(look, f"payments that are {states}")


def changed(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda asked: asked.update(members)
