"""The pages' own files: read once, named with a hash of their content: browsers keep them for good."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PATH = "/ui/static"
FOREVER = "public, max-age=31536000, immutable"
_FILES = (
    "style.css",
    "app.js",
    "explain.css",
    "explain.js",
    "models.css",
    "account.js",
    "icon.svg",
    "vendor/htmx.min.js",
    "vendor/uplot.min.js",
    "vendor/uplot.min.css",
)
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served; `packed` is the same deflated."""

    media_type: str
    body: bytes
    packed: bytes
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Return the files by their name."""
    return {name: _read(name) for name in _FILES}


def address_of(name: str) -> str:
    """Return the address of a file; another content has another one."""
    return f"{PATH}/{name}?v={assets()[name].tag}"


def _read(name: str) -> Asset:
    body = files("router.web").joinpath("static", *name.split("/")).read_bytes()
    media_type = f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8"
    return Asset(media_type, body, gzip.compress(body, mtime=0), hashlib.sha256(body).hexdigest()[:12])
