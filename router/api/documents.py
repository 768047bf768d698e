"""The OpenAPI document and a page that shows it: one file, no script, nothing from another host."""

from __future__ import annotations

import html
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from router import __version__

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>LLM router: API</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
code, pre {{ font: 14px/1.45 ui-monospace, monospace; }} pre {{ overflow-x: auto; }}
summary {{ cursor: pointer; padding: .4rem 0; }}
.verb {{ display: inline-block; min-width: 4rem; font-weight: 700; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ padding: .25rem .75rem .25rem 0; vertical-align: top; border-bottom: 1px solid #8884; }}
</style></head><body><h1>LLM router {version}</h1><p>{intro}</p>
<p>The document itself: <a href="/schema/openapi.json">/schema/openapi.json</a></p>
{operations}</body></html>"""


@cache
def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of every route."""
    raw = files("router.api").joinpath("openapi.json").read_bytes()
    document: dict[str, Any] = msgspec.json.decode(raw)
    document["info"]["version"] = __version__
    return document


def document_routes() -> list[HTTPRouteHandler]:
    """Return the handlers of the document and its page."""

    @get(["/schema/openapi.json", "/openapi.json"], sync_to_thread=False)
    def document() -> Response[bytes]:
        return Response(msgspec.json.encode(openapi_document()), media_type="application/json")

    @get(["/schema", "/docs"], sync_to_thread=False)
    def page() -> Response[str]:
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
        return Response(
            _page(openapi_document()),
            media_type="text/html",
            headers={"content-security-policy": policy, "x-content-type-options": "nosniff"},
        )

    @get("/", sync_to_thread=False)
    def index(request: Request[Any, Any, Any]) -> Response[bytes]:
        if "text/html" in request.headers.get("accept", ""):
            headers = {"location": "/ui", "vary": "accept"}
            return Response(b"", status_code=303, media_type="text/html", headers=headers)
        told = {
            "name": "llm-router",
            "version": __version__,
            "chat": "/v1/chat/completions",
            "models": "/v1/models",
            "explain": "/v1/route",
            "docs": "/schema",
            "pages": "/ui",
        }
        return Response(msgspec.json.encode(told), media_type="application/json", headers={"vary": "accept"})

    return [document, page, index]


def _page(document: dict[str, Any]) -> str:
    operations = "".join(
        _operation(path, verb, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
    )
    intro = html.escape(document["info"]["description"])
    return _PAGE.format(version=__version__, intro=intro, operations=operations)


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(status)}</code></td><td>{html.escape(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parameters = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code> ({p['in']})</td>"
        f"<td>{html.escape(p.get('description', ''))}</td></tr>"
        for p in operation.get("parameters", [])
    )
    example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    body = (
        f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(example)).decode())}</pre>"
        if example
        else ""
    )
    return (
        f'<details><summary><span class="verb">{verb.upper()}</span> <code>{html.escape(path)}</code> '
        f"{html.escape(operation['summary'])}</summary><p>{html.escape(operation.get('description', ''))}</p>"
        f"{body}<table>{parameters}{rows}</table></details>"
    )
