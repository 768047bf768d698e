"""Answers about one account or the operator's own affairs: JSON that no cache on the way may keep."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response


def private_json(value: Any) -> Response[bytes]:
    """Return a 200 with a value as JSON."""
    return Response(
        msgspec.json.encode(value), media_type="application/json", headers={"cache-control": "no-store"}
    )
