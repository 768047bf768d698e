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

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


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
        return Response(
            _page(),
            media_type="text/html",
            headers={"content-security-policy": _POLICY, "x-content-type-options": "nosniff"},
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
            "responses": "/v1/responses",
            "models": "/v1/models",
            "explain": "/v1/route",
            "docs": "/schema",
            "pages": "/ui",
        }
        return Response(msgspec.json.encode(told), media_type="application/json", headers={"vary": "accept"})

    return [document, page, index]


@cache
def _page() -> str:
    document = openapi_document()
    operations = "".join(
        _operation(path, verb, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
    )
    intro = html.escape(document["info"]["description"])
    page = files("router.api").joinpath("documents.html").read_text("utf-8")
    for name, text in (("version", __version__), ("intro", intro), ("operations", operations)):
        page = page.replace(f"{{{name}}}", text, 1)
    return page


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    answers = "".join(
        f"<tr><td><code>{html.escape(status)}</code></td><td>{html.escape(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parameters = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code> in the {p['in']}</td>"
        f"<td>{html.escape(p.get('description', ''))}</td></tr>"
        for p in operation.get("parameters", [])
    )
    asked = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = "".join(
        f'<pre tabindex="0">{_written(example["value"])}</pre>'
        for example in asked.get("examples", {}).values()
    )
    told = operation.get("description", "")
    return (
        f'<details><summary><span class="verb">{verb.upper()}</span> <code>{html.escape(path)}</code> '
        f"<span>{html.escape(operation['summary'])}</span></summary>"
        + (f"<p>{html.escape(told)}</p>" if told else "")
        + (f"<h2>Examples</h2>{examples}" if examples else "")
        + (f"<h2>Parameters</h2><table>{parameters}</table>" if parameters else "")
        + f"<h2>Answers</h2><table>{answers}</table></details>"
    )


def _written(value: Any) -> str:
    return html.escape(msgspec.json.format(msgspec.json.encode(value)).decode())
