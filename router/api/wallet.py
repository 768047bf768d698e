"""`/wallet`: the wallet that pays upstreams, for whoever may ask for completions here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from router.access.keys import Access, Keys, authorization_of
from router.access.wallet import Wallet, caps_of, unpayable, wallet_document
from router.api.admin import check_admin
from router.api.private import private_json
from router.errors import InvalidKey, NotFound
from router.settings import Settings


def wallet_routes(
    keys: Keys, access: Access, settings: Settings, wallet: Wallet, now: Callable[[], datetime]
) -> list[HTTPRouteHandler]:
    """Return the handlers.

    With open access, and for any valid key, they tell the address, tokens, balances, caps and the day's sums.
    The single payments, with the ids of other customers' requests, are told with open access and to the
    operator's key.
    """

    @get(["/wallet", "/v1/wallet"])
    async def shown(request: Request[Any, Any, Any]) -> Response[bytes]:
        operator = access == "open" or _is_operator(request, settings)
        if not _is_operator(request, settings):
            await keys.identify(authorization_of(request.scope["headers"]), access)
        blocked = unpayable(settings, settings.data)
        document = await wallet_document(wallet, caps_of(settings), blocked, now(), payments=operator)
        return private_json(document)

    return [shown]


def _is_operator(request: Request[Any, Any, Any], settings: Settings) -> bool:
    try:
        check_admin(request, settings.admin_key)
    except (InvalidKey, NotFound):
        return False
    return True
