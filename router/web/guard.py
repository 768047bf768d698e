"""Who may see which page.

| the service is      | no admin key                        | an admin key is set                |
|---------------------|-------------------------------------|------------------------------------|
| on loopback         | open to who sits at this machine    | asks for the admin key             |
| on a public address | off, but for what is public         | asks for the admin key             |

Wherever the pages are on, `/ui/account` also takes a customer's API key, and shows its own account alone.
Open pages have no secret to check, so they check where a request comes from: the name in `Host` must be one
of this machine, or a page of another site could read them through a name that it lets point here (DNS
rebinding); nothing may come through a proxy; a foreign `Origin` is refused. Whatever changes something must
name our own origin everywhere, so that no other site can send a form.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from litestar import Request

from router.access.keys import ApiKey, Keys, authorization_of
from router.access.origins import is_local, same_origin
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
    """Answer with the sign-in form; `note` says what was wrong before, `ended` that a session is over."""

    def __init__(self, note: str = "", *, ended: bool = False) -> None:
        super().__init__(note)
        self.note = note
        self.ended = ended
        self.wanted = ""  # the page to go on to, where the request names another one


@dataclass(frozen=True, slots=True)
class Visitor:
    """Say who looks at a page; `signed_in` is False where the page asked for no key.

    `may_sign_in` says of somebody whom nobody knows that there is something to sign in to.
    """

    role: Literal["operator", "customer", "nobody"]
    key: ApiKey | None = None
    signed_in: bool = False
    may_sign_in: bool = False


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
        self._sessions = Sessions(key, clock)
        self._attempts = Attempts(monotonic)

    def admin_of(self, request: AnyRequest) -> Visitor:
        """Return the operator. Raises PageFault and SignInNeeded for anybody else."""
        self.check_origin(request)
        if self._admin_key is None:
            return self._open_to(request)
        if authorization_of(request.scope["headers"]) is not None:
            return self._with_header(request, self._admin_key)
        if self._is_operator(request):
            return Visitor("operator", signed_in=True)
        session = self._claim(request)
        if session is not None and session.role == "customer":
            raise PageFault(
                403,
                "This page is for the operator",
                "You are signed in with an API key, which shows its own account only.",
                "Go to Account, or sign out and sign in with the admin key (ROUTER_ADMIN_KEY).",
            )
        raise SignInNeeded

    async def customer_of(self, request: AnyRequest) -> Visitor:
        """Return the customer whose API key was signed in with, else the operator. Raises like `admin_of`."""
        self.check_origin(request)
        if self._admin_key is None:
            self._open_to(request)
        session = self._claim(request)
        if session is None:
            return self.admin_of(request)
        key = await self._customer(request, session)
        if key is None:
            raise SignInNeeded("The API key that you signed in with was revoked or has expired.", ended=True)
        return Visitor("customer", key, signed_in=True)

    async def anyone_of(self, request: AnyRequest) -> Visitor:
        """Return who looks at a public page: nobody in particular where nobody has signed in."""
        self.check_origin(request)
        if self._admin_key is None and not self._loopback:
            return NOBODY  # nobody could have signed in
        asked = Visitor("nobody", may_sign_in=True)
        if self._admin_key is not None and self._has_admin_key(request, self._admin_key):
            return Visitor("operator", signed_in=True)
        others = asked if self._admin_key is not None else self._open_to(request)
        if self._is_operator(request):
            return Visitor("operator", signed_in=True)
        session = self._claim(request)
        key = None if session is None else await self._customer(request, session)
        return others if key is None else Visitor("customer", key, signed_in=True)

    def seen_by(self, request: AnyRequest) -> Visitor:
        """Return for whom the menu of a page is that says what went wrong; a customer's word is believed."""
        try:
            return self.admin_of(request)
        except SignInNeeded:
            return Visitor("nobody", may_sign_in=True)
        except PageFault:
            customer = self._claim(request) is not None
            return Visitor("customer", signed_in=True) if customer else NOBODY

    def may_sign_in(self, request: AnyRequest) -> None:
        """Raise PageFault where the pages are off, or open to another machine than the one that asks."""
        self.check_origin(request)
        if self._admin_key is None:
            self._open_to(request)

    @property
    def asks(self) -> bool:
        """Tell whether the operator has a key to sign in with."""
        return self._admin_key is not None

    def check_origin(self, request: AnyRequest) -> None:
        """Raise PageFault for what another site's page sends: what changes something, names our origin."""
        origin = request.headers.get("origin")
        if request.method in _SAFE:
            return
        if origin is None or not same_origin(origin, request.headers.get("host", "")):
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
        self.may_sign_in(request)
        text = text.encode("utf-8", "replace").decode()
        secret = self._sessions.operator_secret
        if secret is not None and hmac.compare_digest(text.encode(), (self._admin_key or "").encode()):
            session = Session("operator")
            return session, self._sessions.cookie(session, secret)
        key = await self._keys.lookup(text)
        if key is not None and self._lives(key):
            session, (_, secret) = Session("customer", key.id), await self._keys.signing(key.id)
            return session, self._sessions.cookie(session, secret)
        self._wrong(request)
        neither = "neither the admin key nor an API key" if self.asks else "not an API key"
        admin = " The admin key is the value of ROUTER_ADMIN_KEY;" if self.asks else ""
        raise SignInNeeded(f"That is {neither} that is active.{admin} `router keys list` shows the API keys.")

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
        if not is_local(host) or (origin is not None and not same_origin(origin, host)):
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
        if self._has_admin_key(request, admin_key):
            return Visitor("operator", signed_in=True)
        self._wrong(request)
        raise PageFault(
            401, "That is not the admin key", "", "Send `Authorization: Bearer $ROUTER_ADMIN_KEY`."
        )

    def _has_admin_key(self, request: AnyRequest, admin_key: str) -> bool:
        sent = authorization_of(request.scope["headers"]) or b""
        scheme, _, token = sent.strip().partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), admin_key.encode())

    def _wrong(self, request: AnyRequest) -> None:
        """Note a wrong key. Raises PageFault where many came from its address.

        A right key always passes: behind a proxy everybody has one address, and a stranger's guesses there
        would lock the operator out. What keeps guesses from hitting is the length of the keys.
        """
        address = request.client.host if request.client is not None else ""
        wait_s = self._attempts.wait_s(address)
        if wait_s:
            raise PageFault(
                429,
                "Too many wrong keys",
                "Several wrong keys came from your address within a minute.",
                f"Try again in {wait_s} seconds, or with the right key at once.",
                wait_s,
            )
        self._attempts.wrong(address)

    def _claim(self, request: AnyRequest) -> Session | None:
        """Return who the request says that it is from; a customer's word is proven by `_customer`."""
        cookie = request.cookies.get(COOKIE)
        session = self._sessions.claim(cookie) if cookie else None
        return None if session is not None and session.role == "operator" else session

    def _is_operator(self, request: AnyRequest) -> bool:
        cookie = request.cookies.get(COOKIE, "")
        session = self._sessions.claim(cookie)
        if session is None or session.role != "operator":
            return False
        return self._sessions.proves(cookie, self._sessions.operator_secret)

    async def _customer(self, request: AnyRequest, session: Session) -> ApiKey | None:
        """Return the key of a customer's session, None where we did not give it or the key is no more."""
        try:
            key, secret = await self._keys.signing(session.key_id)
        except NotFound:
            return None
        proven = self._sessions.proves(request.cookies.get(COOKIE, ""), secret)
        return key if proven and self._lives(key) else None

    def _lives(self, key: ApiKey) -> bool:
        expired = key.expires_at is not None and key.expires_at <= utc_text(self._clock())
        return key.revoked_at is None and not expired
