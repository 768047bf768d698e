"""What a running router says of itself, for the settings of its clients."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 3.0
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Found:
    """A router that answered: whether it takes the key, and what `auto` can do (None: it did not say)."""

    accepted: bool
    context: int | None = None
    max_output: int | None = None


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address; raises ValueError with the fix."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8402")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def is_local(origin: str) -> bool:
    """Tell whether an address is this machine's own."""
    host = urlsplit(origin).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def ask(origin: str, key: str, timeout_s: float = TIMEOUT_S) -> Found | None:
    """Ask a router whether it takes the key and what it serves; None where nobody answers.

    Raises ValueError where something else than this router answers.
    """
    status, usage = _get(f"{origin}/v1/usage", key, origin, timeout_s)
    if status is None:
        return None
    if status in (401, 403):
        return Found(accepted=False)
    if status != 200 or not isinstance(usage, dict) or usage.get("object") != "usage":
        raise ValueError(f"what answers at {origin} is not this router (GET /v1/usage: {status})")
    _, models = _get(f"{origin}/v1/models", key, origin, timeout_s)
    listed = models.get("data", []) if isinstance(models, dict) else []
    auto: dict[str, Any] = next((model for model in listed if model.get("id") == "auto"), {})
    return Found(True, auto.get("context_length") or None, auto.get("max_output") or None)


def _get(url: str, key: str, origin: str, timeout_s: float) -> tuple[int | None, Any]:
    # A proxy of the environment is for other machines.
    proxies = urllib.request.ProxyHandler({}) if is_local(origin) else urllib.request.ProxyHandler()
    opener = urllib.request.build_opener(proxies)
    headers = {} if key == "unused" else {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - origin_of lets only http and https by
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.status, json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as refused:
        return refused.code, None
    except (OSError, HTTPException):
        return None, None
    except ValueError:
        return 200, None
