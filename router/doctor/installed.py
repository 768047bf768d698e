"""How this installation was made, and the command that makes it anew: a fix that can be typed as it stands.

The project's name on public indexes belongs to another project, so that the name alone is never the fix.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "llm-router"


def again(extra: str = "", facts: Path | None = None) -> str:
    """Return the command that installs the router again from where it came; `extra` is like `[otel]`.

    Where it came from is what installers write down beside it, or in the folder `facts`: PEP 376 (INSTALLER),
    PEP 610 (direct_url.json).
    """
    try:
        found = metadata.distribution(DISTRIBUTION) if facts is None else metadata.Distribution.at(facts)
    except metadata.PackageNotFoundError:
        return f"pip install --force-reinstall '.{extra}' in the router's checkout"
    by_uv = (found.read_text("INSTALLER") or "").strip() == "uv"
    if not by_uv and find_spec("pip") is None:
        return "build the image again: it has no installer"
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    python = shlex.quote(sys.executable)
    tool = f"uv pip install --python {python}" if by_uv else f"{python} -m pip install"
    return f"{tool} --force-reinstall {_target(origin, found.version, extra)}"


def _target(origin: dict[str, object], version: str, extra: str) -> str:
    """Return what is installed, as installers take it."""
    url = origin.get("url")
    if not isinstance(url, str):
        return shlex.quote(f"{DISTRIBUTION}{extra}=={version}")
    if not url.startswith("file:"):
        return shlex.quote(f"{DISTRIBUTION}{extra} @ {url}")
    facts = origin.get("dir_info")
    editable = "--editable " if isinstance(facts, dict) and facts.get("editable") else ""
    return editable + shlex.quote(unquote(urlsplit(url).path) + extra)
