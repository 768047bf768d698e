"""What a killed process had under way: the pages show what the ledger charges for it."""

from __future__ import annotations

import csv
import http.client
import io
import json
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from tests.router import Offered, write_catalog
from tests.service.ledgers import Books
from tests.service.test_idempotency_kill import Service, serving
from tests.service.walking import wait_for
from tests.upstream import Gate, ScriptedUpstream, answer, hang, stream

STREAMS, SILENT, WELL = "test/streams", "test/silent", "test/well"


def begun(service: Service, model: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    message = {"role": "user", "content": "Say it slowly"}
    body = json.dumps({"model": model, "stream": model == STREAMS, "messages": [message]}).encode()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    return connection


def get(service: Service, path: str) -> bytes | None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    try:
        connection.request("GET", path)
        got = connection.getresponse()
        return got.read() if got.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def shown(service: Service) -> list[dict[str, str]]:
    text = get(service, "/ui/requests.csv")
    return list(csv.DictReader(io.StringIO(text.decode()))) if text is not None else []


def test_what_a_kill_interrupts_is_listed_and_its_charge_is_the_ledgers(tmp_path: Path) -> None:
    with ScriptedUpstream() as up:
        up.on(STREAMS, stream("one two three four", gate=Gate(), gate_after=3))
        up.on(SILENT, hang())
        up.on(WELL, answer())
        models = [Offered(name) for name in (STREAMS, SILENT, WELL)]
        catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, models)
        with serving(tmp_path, catalog) as service:
            wait_for(lambda: get(service, "/health/ready"), "the service", 30.0)
            with closing(begun(service, WELL)) as well, closing(well.getresponse()) as whole:
                assert whole.status == 200
            wait_for(lambda: shown(service) or None, "the first request")
            streaming, silent = begun(service, STREAMS), begun(service, SILENT)
            got = streaming.getresponse()
            while b"two" not in got.readline():
                pass
            wait_for(lambda: True if len(up.requests) == 3 else None, "the silent one's call")
            service.kill()
            service.start()
            rows = wait_for(lambda: found if len(found := shown(service)) == 3 else None, "all three", 30.0)
            page = get(service, "/ui?range=1h") or b""
            service.stop()
            for each in (got, streaming, silent):
                each.close()

    assert Counter(row["outcome"] for row in rows) == {"ok": 1, "interrupted": 2}
    (charged,) = [row for row in rows if row["outcome"] == "interrupted" and Decimal(row["charged_usd"])]
    assert charged["model"] == STREAMS
    settled = [row for row in Books(tmp_path / "data").rows() if row.kind == "settle"]
    assert len(settled) == 2
    charges = sum(Decimal(row["charged_usd"]) for row in rows)
    assert charges * 10**9 == sum(row.amount_nusd for row in settled)
    assert b"interrupted" in page or b"2 failed" in page
