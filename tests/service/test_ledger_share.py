"""What the ledger's share is measured with: a service that is the same but for what its ledger keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import ledger_share
from benchmarks.measure import check
from benchmarks.site import Site
from tests.service.ledgers import Books


def test_a_service_whose_ledger_keeps_nothing_serves_and_writes_no_row(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    site = Site(tmp_path, tmp_path, cores[0], cores[-1])
    with (
        site.upstream() as port,
        ledger_share.start(site, port, ["benchmarks.nothing_kept"], {}) as nothing,
        ledger_share.start(site, port, ["router", "serve"], {}) as kept,
    ):
        for endpoint in (nothing, kept):
            check(endpoint)
            check(endpoint)
    rows = [Books(tmp_path / name / "data").rows() for name in ("ours", "ours-1")]
    assert [[row.kind for row in found if row.kind != "topup"] for found in rows] == [
        [],
        ["hold", "settle"] * 4,
    ]


def test_a_cost_is_what_is_missing_of_the_same_turns_requests() -> None:
    measured = {
        ledger_share.NOTHING: [(1_000.0, 300.0), (500.0, 600.0)],
        ledger_share.SQLITE: [(900.0, 400.0), (500.0, 600.0)],
    }
    assert ledger_share.costs(measured, ledger_share.SQLITE) == pytest.approx([0.1, 0.0])
    assert ledger_share.cpu_shares(measured, ledger_share.SQLITE) == pytest.approx([0.25, 0.0])
    assert "10.0" in ledger_share.table(measured)
