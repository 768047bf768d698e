"""The measurement behind docs/scaling.md, small: every part of it runs, and its page says what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import page, service
from benchmarks.scaling.__main__ import RESULTS
from router import __version__
from tests.postgres import binaries
from tests.redis_server import needs_redis


def needs_postgresql() -> None:
    if binaries() is None:
        assert "CI" not in os.environ, "CI must have PostgreSQL (Debian: apt-get install postgresql)"
        pytest.skip("no PostgreSQL here: apt-get install postgresql")


def test_the_quick_measurement_finds_every_figure(tmp_path: Path) -> None:
    needs_postgresql()
    needs_redis()
    command = [sys.executable, "-m", "benchmarks.scaling", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    (written,) = tmp_path.glob("*-scaling.json")
    found = json.loads(written.read_text())
    for setup in service.QUICK:
        figures = found["setups"][setup.name]
        assert "unavailable" not in figures, figures
        assert figures["rps"]["median"] > 0
        assert figures["cpu_us"]["router"]["median"] > 0
    replicas = found["setups"]["PostgreSQL, 2 replicas + Redis"]
    assert replicas["connections"]["median"] == 2 * 4, "docs/scaling.md and README.md say four a process"
    assert replicas["redis_calls"]["median"] >= 1
    for engine in ("sqlite", "postgresql"):
        measured = found["ledger"][engine]
        assert set(measured["hold"]) == {"1", "16", "64"}
        assert measured["writers"]["2"]["requests_per_s"]["median"] > 0
        assert 0 < measured["growth"]["bytes_a_sum"] < 2 * measured["growth"]["bytes_a_request"]
    assert (tmp_path / written.with_suffix(".md").name).read_text() == page.markdown(found)


def test_the_page_names_what_could_not_be_measured() -> None:
    figure = {"median": 1.0, "min": 1.0, "max": 2.0}
    found = {
        "version": "1",
        "commit": "c",
        "measured_at": "now",
        "machine": {"cpu": "x", "cores": 2, "system": "y", "ledger_filesystem": "z"},
        "python": "3",
        "load": {"rounds": 1, "seconds": 1, "connections": 1, "accounts": 1},
        "foreign_cpu_share": [0.25],
        "setups": {
            "direct": {"rps": figure, "cpu_us": {"load": figure, "upstream": figure}},
            "PostgreSQL, 1 replica": {"unavailable": "no PostgreSQL here\nand more"},
        },
        "ledger": {"postgresql": {"unavailable": "no PostgreSQL here"}},
        "catalog_reload_ms": figure,
    }
    text = page.markdown(found)
    assert "| PostgreSQL, 1 replica | no PostgreSQL here |" in text
    assert "postgresql: no PostgreSQL here" in text
    assert "1 (1-2) requests/s" in text
    assert "25.0%" in text


def test_the_document_shows_what_was_measured() -> None:
    document = (RESULTS.parents[1] / "docs" / "scaling.md").read_text().splitlines()
    (newest,) = RESULTS.glob(f"{__version__}-scaling.json")
    result = json.loads(newest.read_text())
    assert [line for line in page.summary(result) if line not in document] == []
    assert page.renewed("\n".join(document), result).splitlines() == document
    assert newest.with_suffix(".md").read_text() == page.markdown(result)


def test_only_the_tables_of_a_document_are_renewed() -> None:
    (newest,) = RESULTS.glob(f"{__version__}-scaling.json")
    result = json.loads(newest.read_text())
    first, *rest = page.summary(result)
    old = f"before\n\n{first}\n|---|\n| gone |\n\nafter\n\n| other |\n|---|\n"
    new = page.renewed(old, result)
    assert new.startswith(f"before\n\n{first}\n{rest[0]}\n")
    assert "| gone |" not in new
    assert new.endswith("\n\nafter\n\n| other |\n|---|\n")
