"""Render the templates, with the headers that keep a page to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from litestar import Response

from router import __version__
from router.web.assets import address_of, assets
from router.web.guard import NOBODY, AnyRequest, Visitor
from router.web.outcomes import meaning
from router.web.words import FILTERS, share, signed_percent

if TYPE_CHECKING:
    from jinja2 import Environment

NAV = (
    ("/ui", "Overview"),
    ("/ui/explain", "Explain"),
    ("/ui/models", "Models & pricing"),
    ("/ui/requests", "Requests"),
    ("/ui/account", "Account"),
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with none at all, browsers would hide the origin of our own forms too
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 30 ms that a start does not wait for

    made = Environment(
        loader=PackageLoader("router.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS, meaning=meaning)
    made.globals.update(asset=address_of, nav=NAV, version=__version__, share=share, percent=signed_percent)
    return made


def preparations() -> Iterator[Callable[[], object]]:
    """Return what the first look at each page would wait for: 0.2 s, as steps of a few milliseconds."""
    yield _environment
    for name in _environment().list_templates(extensions=["html"]):
        yield partial(_environment().get_template, name)
    yield assets


def render(template: str, **context: Any) -> str:
    """Return a template's text."""
    text: str = _environment().get_template(template).render(context)
    return text


def page(
    request: AnyRequest,
    template: str,
    visitor: Visitor = NOBODY,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> Response[str]:
    """Return a whole page; `context` is what its template names. `path` marks the place in the menu."""
    text = render(template, visitor=visitor, path=request.scope["path"].rstrip("/") or "/ui", **context)
    return piece(text, status=status, headers=headers)


def piece(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[str]:
    """Return HTML, a page or what htmx puts into one."""
    return Response(text, status_code=status, media_type="text/html", headers={**HEADERS, **(headers or {})})
