"""What belongs to every page: its files, signing in and out, and pages that say what went wrong."""

from __future__ import annotations

import logging
from typing import Any

from litestar import MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ExceptionHandlersMap

from router.errors import RouterError
from router.web.assets import FOREVER, address_of, assets
from router.web.guard import AnyRequest, Guard, PageFault, SignInNeeded
from router.web.pages import HEADERS, page
from router.web.sessions import COOKIE, SESSION_S

_log = logging.getLogger("router.web")
FORM_BYTES = 8 * 1024


def frame_routes(guard: Guard) -> list[HTTPRouteHandler]:
    """Return the handlers of signing in and out, of the pages' files, and of addresses that are no page."""

    @get("/ui/sign-in", sync_to_thread=False)
    def ask(request: Request[Any, Any, Any]) -> Response[str]:
        guard.may_sign_in(request)
        return page(request, "sign_in.html", note="", wanted="/ui/account", asks=guard.asks)

    @post("/ui/sign-in", status_code=303, request_max_body_size=FORM_BYTES)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[bytes]:
        form = await request.form()
        wanted = str(form.get("next", ""))
        to = wanted if _is_ours(wanted) else "/ui"
        try:
            session, cookie = await guard.sign_in(request, str(form.get("key", "")).strip())
        except SignInNeeded as again:
            again.wanted = to
            raise
        to = "/ui/account" if session.role == "customer" else to
        return _redirect(to, _cookie(request, cookie, SESSION_S))

    @post("/ui/sign-out", status_code=303)
    async def sign_out(request: Request[Any, Any, Any]) -> Response[bytes]:
        guard.check_origin(request)
        return _redirect("/ui", _cookie(request, "", 0))

    @get("/ui/static/{name:path}", media_type=MediaType.TEXT, sync_to_thread=False)
    def static(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        found = assets().get(name.removeprefix("/"))
        if found is None:
            raise PageFault(404, "There is no such file", name[:100], "Reload the page that asked for it.")
        packs = "gzip" in request.headers.get("accept-encoding", "")
        headers = {
            "cache-control": FOREVER,
            "vary": "accept-encoding",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
            **({"content-encoding": "gzip"} if packs else {}),
        }
        body = found.packed if packs else found.body
        return Response(body, media_type=found.media_type, headers=headers)

    @get("/favicon.ico", media_type=MediaType.TEXT, sync_to_thread=False)
    def icon() -> Response[bytes]:  # what a browser asks for where a document names none
        headers = {"location": address_of("icon.svg"), "cache-control": "public, max-age=86400"}
        return Response(b"", status_code=302, headers=headers)

    @get("/ui/{rest:path}", sync_to_thread=False)
    def nowhere(request: Request[Any, Any, Any], rest: FromPath[str]) -> Response[str]:
        raise PageFault(404, "There is no such page", f"/ui{rest[:100]}", "Take one from the menu.")

    return [ask, sign_in, sign_out, static, icon, nowhere]


def page_faults(guard: Guard) -> ExceptionHandlersMap:
    """Return Litestar's map from exceptions to pages."""

    def tell(
        request: AnyRequest, status: int, title: str, text: str, fix: str, retry_after_s: int = 0
    ) -> Response[str]:
        headers = {"retry-after": str(retry_after_s)} if retry_after_s else {}
        context = {"title": title, "text": text, "fix": fix, "code": status}
        visitor = guard.seen_by(request)
        return page(request, "fault.html", visitor, status=status, headers=headers, **context)

    def sign_in(request: AnyRequest, fault: SignInNeeded) -> Response[str]:
        headers = _go_there(request)
        if fault.ended:
            headers["set-cookie"] = _cookie(request, "", 0)
        wanted = fault.wanted or request.scope["path"]
        return page(
            request,
            "sign_in.html",
            status=401,
            headers=headers,
            note=fault.note,
            wanted=wanted,
            asks=guard.asks,
        )

    def told(request: AnyRequest, fault: PageFault) -> Response[str]:
        if fault.status == 404 and fault.title == "The pages are off":
            _log.warning("%s: %s %s %s", request.scope["path"], fault.title, fault.text, fault.fix)
        return tell(request, fault.status, fault.title, fault.text, fault.fix, fault.retry_after_s)

    def refused(request: AnyRequest, fault: RouterError) -> Response[str]:
        title = "This does not work right now" if fault.status >= 500 else "That cannot be done"
        return tell(request, fault.status, title, fault.message, "", fault.retry_after_s or 0)

    def http(request: AnyRequest, fault: HTTPException) -> Response[str]:
        return tell(request, fault.status_code, "That cannot be done", fault.detail[:200], "")

    def broken(request: AnyRequest, fault: Exception) -> Response[str]:
        _log.error("page %s failed", request.scope["path"], exc_info=fault)
        text = "The service serves on; its log has the details."
        return tell(request, 500, "Something broke in this page", text, "Reload it, or look at the log.")

    return {
        SignInNeeded: sign_in,
        PageFault: told,
        RouterError: refused,
        HTTPException: http,
        Exception: broken,
    }


def _go_there(request: AnyRequest) -> dict[str, str]:
    """Have htmx load the whole page, where only a piece of it was asked for."""
    return {"hx-refresh": "true"} if "hx-request" in request.headers else {}


def _is_ours(path: str) -> bool:
    return (path == "/ui" or path.startswith("/ui/")) and path.isprintable() and "\\" not in path


def _redirect(to: str, cookie: str) -> Response[bytes]:
    headers = {**HEADERS, "location": to, "set-cookie": cookie}
    return Response(b"", status_code=303, media_type="text/html", headers=headers)


def _cookie(request: AnyRequest, value: str, age_s: int) -> str:
    """Write the cookie; `Secure` wherever the browser speaks TLS, to us or to the proxy before us."""
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    flags = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Path=/ui; Max-Age={age_s}; HttpOnly; SameSite=Strict{flags}"
