"""`/admin/catalog`: what the operator sees of the running catalog, and a reload on demand."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from pydantic import SecretStr

from router.access.keys import authorization_of
from router.api.private import private_json
from router.catalog.snapshot import Fault
from router.errors import InvalidKey, NotFound
from router.running import RunningCatalog


def admin_routes(
    catalog: RunningCatalog, admin_key: SecretStr | None, reload_all: Callable[[], Awaitable[None]]
) -> list[HTTPRouteHandler]:
    """Return the handlers; without a key they answer 404, with another one 401."""

    @get("/admin/catalog", sync_to_thread=False)
    def shown(request: Request[Any, Any, Any]) -> Response[bytes]:
        check_admin(request, admin_key)
        return private_json(catalog_document(catalog))

    @post("/admin/catalog/reload", status_code=200)
    async def reload(request: Request[Any, Any, Any]) -> Response[bytes]:
        # 200 also for files with faults: the reload was done, and `rejected` says what it found.
        check_admin(request, admin_key)
        await reload_all()
        return private_json(catalog_document(catalog))

    return [shown, reload]


def catalog_document(catalog: RunningCatalog) -> dict[str, Any]:
    """Return what serves, since when, what is doubtful about it, and why the last edit does not serve."""
    serving, rejected = catalog.current, catalog.rejected
    return {
        "revision": serving.revision,
        "applied_at": _utc_text(catalog.applied_at),
        "files": serving.files,
        "models": len(serving.models),
        "offers": sum(len(model.offers) for model in serving.models.values()),
        "warnings": [_fault(warning) for warning in serving.warnings],
        "rejected": None
        if rejected is None
        else {"at": _utc_text(rejected.at), "errors": [_fault(fault) for fault in rejected.faults]},
    }


def check_admin(request: Request[Any, Any, Any], admin_key: SecretStr | None) -> None:
    """Let the operator pass.

    Raises `NotFound` without a key to check against, `InvalidKey` for another one or none.
    """
    if admin_key is None:
        raise NotFound("The admin routes are off; set ROUTER_ADMIN_KEY to have them.", name="admin_off")
    sent = authorization_of(request.scope["headers"]) or b""
    scheme, _, token = sent.strip().partition(b" ")
    if not token.strip() and scheme.lower() in (b"", b"bearer"):
        raise InvalidKey(
            "No API key was sent: the admin routes take `Authorization: Bearer $ROUTER_ADMIN_KEY`."
        )
    wanted = admin_key.get_secret_value().encode()
    # Compared whatever the scheme is, in a time that does not tell how much of the key was right.
    same = hmac.compare_digest(token.strip(), wanted)
    if scheme.lower() != b"bearer" or not same:
        raise InvalidKey(
            "Invalid API key. Incorrect API key provided: the admin routes take"
            " `Authorization: Bearer $ROUTER_ADMIN_KEY`, and no key of `router keys`."
        )


def _fault(fault: Fault) -> dict[str, Any]:
    return {"file": fault.file, "line": fault.line, "path": fault.path, "message": fault.message}


def _utc_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
