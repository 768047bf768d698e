"""Who may see which page.

| the service is      | no admin key                        | an admin key is set                |
|---------------------|-------------------------------------|------------------------------------|
| on loopback         | open to who sits at this machine    | asks for the admin key             |
| on a public address | off, but for what is public         | asks for the admin key             |

Open pages have no secret to check, so they check where a request comes from: the name in `Host` must be one
of this machine, or a page of another site could read them through a name that it lets point here (DNS
rebinding); nothing may come through a proxy; a foreign `Origin` is refused. Whatever changes something must
name our own origin everywhere, so that no other site can send a form.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from litestar import Request

from router.access.keys import ApiKey, Keys, authorization_of
from router.errors import NotFound
from router.ledger.rows import utc_text
from router.settings import Settings
from router.web.sessions import COOKIE, Attempts, Session, Sessions

AnyRequest = Request[Any, Any, Any]
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_SAFE = ("GET", "HEAD")


class PageFault(Exception):
    """Answer with a page that says what is wrong and how to mend it."""

    def __init__(self, status: int, title: str, text: str, fix: str = "", retry_after_s: int = 0) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text
        self.fix = fix
        self.retry_after_s = retry_after_s


class SignInNeeded(Exception):
    """Answer with the sign-in form; `note` says what was wrong before."""

    def __init__(self, note: str = "") -> None:
        super().__init__(note)
        self.note = note
        self.wanted = ""  # the page to go on to, where the request names another one


@dataclass(frozen=True, slots=True)
class Visitor:
    """Say who looks at a page; `signed_in` is False where the page asked for no key."""

    role: Literal["operator", "customer", "nobody"]
    key: ApiKey | None = None
    signed_in: bool = False


NOBODY = Visitor("nobody")


class Guard:
    """Let people pass. `clock` gives seconds since 1970, `monotonic` seconds of a clock that never steps."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        key = settings.admin_key.get_secret_value() if settings.admin_key is not None else None
        self._admin_key = key
        self._loopback = settings.loopback
        self._keys = keys
        self._clock = clock
        self._sessions = None if key is None else Sessions(key, clock)
        self._attempts = Attempts(monotonic)

    def admin_of(self, request: AnyRequest) -> Visitor:
        """Return the operator. Raises PageFault and SignInNeeded for anybody else."""
        self.check_origin(request)
        if self._admin_key is None:
            return self._open_to(request)
        if authorization_of(request.scope["headers"]) is not None:
            return self._with_header(request, self._admin_key)
        session = self._session(request)
        if session is None:
            raise SignInNeeded
        if session.role != "operator":
            raise PageFault(
                403,
                "This page is for the operator",
                "You are signed in with an API key, which shows its own account only.",
                "Go to Account, or sign out and sign in with the admin key (ROUTER_ADMIN_KEY).",
            )
        return Visitor("operator", signed_in=True)

    async def customer_of(self, request: AnyRequest) -> Visitor:
        """Return the operator, or the customer whose API key was signed in with. Raises like `admin_of`."""
        self.check_origin(request)
        session = self._session(request)
        if session is None or session.role == "operator":
            return self.admin_of(request)
        key = await self._live_key(session.key_id)
        if key is None:
            raise SignInNeeded("The API key that you signed in with was revoked or has expired.")
        return Visitor("customer", key, signed_in=True)

    async def anyone_of(self, request: AnyRequest) -> Visitor:
        """Return who looks at a public page: nobody in particular where nobody has signed in."""
        self.check_origin(request)
        if self._admin_key is None:
            return self._open_to(request) if self._loopback else NOBODY
        session = self._session(request)
        if session is None:
            return NOBODY
        if session.role == "operator":
            return Visitor("operator", signed_in=True)
        key = await self._live_key(session.key_id)
        return NOBODY if key is None else Visitor("customer", key, signed_in=True)

    def check_origin(self, request: AnyRequest) -> None:
        """Raise PageFault for what another site's page sends: what changes something, names our origin."""
        origin = request.headers.get("origin")
        if request.method in _SAFE:
            return
        if origin is None or not _same(origin, request.headers.get("host", "")):
            raise PageFault(
                403,
                "This came from another site",
                f"The form was sent from {(origin or 'a page that does not say where it is')[:100]!r},"
                f" and this service is {request.headers.get('host', '')[:100]!r}.",
                "Open the page here and send it again. Behind a proxy: let it pass the Host header on"
                " (nginx: proxy_set_header Host $http_host).",
            )

    async def sign_in(self, request: AnyRequest, text: str) -> tuple[Session, str]:
        """Return who signs in with a key, and the cookie for it. Raises SignInNeeded with what was wrong."""
        self.check_origin(request)
        if self._admin_key is None or self._sessions is None:
            self._open_to(request)
            raise PageFault(404, "Nobody needs to sign in here", "These pages are open.", "Go to Overview.")
        address = request.client.host if request.client is not None else ""
        wait_s = self._attempts.wait_s(address)
        if wait_s:
            raise PageFault(
                429,
                "Too many wrong keys",
                "Several wrong keys came from your address within a minute.",
                f"Try again in {wait_s} seconds.",
                wait_s,
            )
        session: Session | None = None
        text = text.encode("utf-8", "replace").decode()
        if hmac.compare_digest(text.encode(), self._admin_key.encode()):
            session = Session("operator")
        elif (key := await self._keys.lookup(text)) is not None and self._lives(key):
            session = Session("customer", key.id)
        if session is None:
            self._attempts.wrong(address)
            raise SignInNeeded(
                "That is neither the admin key nor an API key that is active. The admin key is the value of"
                " ROUTER_ADMIN_KEY; `router keys list` shows the API keys."
            )
        return session, self._sessions.cookie(session)

    def _open_to(self, request: AnyRequest) -> Visitor:
        """Let pass who sits at this machine, where no key is set."""
        if not self._loopback:
            raise PageFault(
                404,
                "The pages are off",
                "This router listens on a public address and has no admin key to ask for.",
                "Set ROUTER_ADMIN_KEY to a long random text and start it again.",
            )
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if not is_local(host) or (origin is not None and not _same(origin, host)):
            raise PageFault(
                403,
                "Open this page by an address of this machine",
                f"No admin key is set, so the pages are open to this machine alone, and you asked for"
                f" {host[:100]!r}.",
                "Open http://127.0.0.1 with the port of the router, or set ROUTER_ADMIN_KEY.",
            )
        if any(name in request.headers for name in _PROXY_HEADERS):
            raise PageFault(
                403,
                "A proxy stands before this page",
                "No admin key is set, so the pages are open to this machine alone, and this request came"
                " through a proxy, which others may use too.",
                "Set ROUTER_ADMIN_KEY and start the router again.",
            )
        return Visitor("operator")

    def _with_header(self, request: AnyRequest, admin_key: str) -> Visitor:
        sent = authorization_of(request.scope["headers"]) or b""
        scheme, _, token = sent.strip().partition(b" ")
        address = request.client.host if request.client is not None else ""
        if self._attempts.wait_s(address):
            raise PageFault(429, "Too many wrong keys", "Wait a minute.", retry_after_s=60)
        if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), admin_key.encode()):
            return Visitor("operator", signed_in=True)
        self._attempts.wrong(address)
        raise PageFault(
            401, "That is not the admin key", "", "Send `Authorization: Bearer $ROUTER_ADMIN_KEY`."
        )

    def _session(self, request: AnyRequest) -> Session | None:
        cookie = request.cookies.get(COOKIE)
        return self._sessions.read(cookie) if cookie and self._sessions is not None else None

    async def _live_key(self, key_id: str) -> ApiKey | None:
        try:
            key, _ = await self._keys.one(key_id)
        except NotFound:
            return None
        return key if self._lives(key) else None

    def _lives(self, key: ApiKey) -> bool:
        expired = key.expires_at is not None and key.expires_at <= utc_text(self._clock())
        return key.revoked_at is None and not expired


def is_local(host: str) -> bool:
    """Tell whether a `Host` names this machine by a name that nobody else can give away."""
    name = _netloc(f"//{host}")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same(origin: str, host: str) -> bool:
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
