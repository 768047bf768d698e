"""The recording of the first minute: its commands run, and the picture holds what they print."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.demo import record


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_minute_is_drawn_from_what_the_commands_print(tmp_path: Path) -> None:
    drawn = record(tmp_path)
    ElementTree.fromstring(drawn)
    text = unescape(re.sub(r"<[^>]*>", "", drawn)).replace("\xa0", " ")
    for part in (
        "on http://127.0.0.1:8402",
        "HTTP/1.1 200 OK",
        "x-llm-router-category: simple",
        "x-llm-router-resolved-model: demo/small",
        "reasoning   9",
        "cheapest_in_band, balanced",
        "not chosen",
    ):
        assert part in text
    assert str(tmp_path) not in drawn
    rows = {int(row) for row in re.findall(r'clip-path="url\(#demo-line-(\d+)\)"', drawn)}
    delayed = {int(row) for row in re.findall(r"demo-line-(\d+)\)\"\] \{", drawn)}
    assert rows <= delayed
