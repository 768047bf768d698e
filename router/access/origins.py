"""Where a request without a key comes from: what a page of another site has a browser send is refused.

No key is asked on loopback, so the browser of who sits there could be used by any page it shows: a form of
text/plain needs no leave from us (CORS), and through a name that its owner lets point to this machine (DNS
rebinding) a page could read the answer too. Programs send no `Origin`, or none of the web.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from router.errors import ForeignOrigin
from router.settings import Settings

_WEB = ("http://", "https://", "null")  # null: a sandboxed frame, which any page can make


def refuse_foreign(headers: Mapping[str, str], settings: Settings) -> None:
    """Raise ForeignOrigin for a keyless request of another site's page.

    Pages of this machine may ask, and those of ROUTER_CORS_ORIGINS; our own by another name where an
    admin key guards them, or where the service is public by the operator's wish.
    """
    origin = headers.get("origin")
    if origin is None or not origin.startswith(_WEB):
        return
    if (
        origin in settings.cors_origins
        or "*" in settings.cors_origins
        or is_local(origin.partition("://")[2])
    ):
        return
    named = settings.admin_key is not None or not settings.loopback
    if not (named and same_origin(origin, headers.get("host", ""))):
        raise ForeignOrigin(
            f"No API key was sent, and the request comes from a page of {origin[:100]!r}, which may not use"
            " this router without one. Send an API key (`router keys create`), or name that origin in"
            " ROUTER_CORS_ORIGINS."
        )


def is_local(host: str) -> bool:
    """Tell whether a `Host` names this machine by a name that nobody else can give away."""
    name = _netloc(f"//{host}")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def same_origin(origin: str, host: str) -> bool:
    """Tell whether an origin is that of a `Host`; its scheme says the port that is left out."""
    default = 443 if origin.startswith("https:") else 80
    (name, port), (wanted, wanted_port) = _netloc(origin), _netloc(f"//{host}")
    return bool(name) and (name, port or default) == (wanted, wanted_port or default)


def _netloc(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "", None
