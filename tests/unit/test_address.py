"""How a program on this machine reaches what listens at a host."""

from __future__ import annotations

import pytest

from router.address import origin_at


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1", "http://127.0.0.1:8402"),
        ("0.0.0.0", "http://127.0.0.1:8402"),
        ("::", "http://127.0.0.1:8402"),
        ("::1", "http://[::1]:8402"),
        ("router.example", "http://router.example:8402"),
    ],
)
def test_a_service_that_listens_everywhere_is_reached_on_loopback(host: str, origin: str) -> None:
    assert origin_at(host, 8402) == origin
