"""What the page of requests looks for."""

from __future__ import annotations

import pytest

from router.history.figures import RANGES
from router.web.requests import wish_of


@pytest.mark.parametrize("name", RANGES)
def test_a_range_begins_where_the_first_bar_of_overview_does(name: str) -> None:
    now_s = 1_795_400_885.25
    wish = wish_of({"range": name}, now_s)
    assert wish.since_ms == RANGES[name].start_s(now_s) * 1_000
    assert now_s - RANGES[name].bars * RANGES[name].bar_s < wish.since_ms / 1_000 < now_s
    assert wish_of({}, now_s).since_ms is None
