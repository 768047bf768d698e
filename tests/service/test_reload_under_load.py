"""A catalog that is rewritten all the time under load: no request fails, each is billed with one revision.

The whole of it, 200 rewrites during 5,000 requests:

    RELOAD_REQUESTS=5000 RELOAD_REWRITES=200 uv run pytest -o log_cli_level=INFO \\
        tests/service/test_reload_under_load.py
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.cli import main
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.service.walking import bearer, wait_all_ended
from tests.upstream import ScriptedUpstream

REQUESTS = int(os.environ.get("RELOAD_REQUESTS", "800"))
REWRITES = int(os.environ.get("RELOAD_REWRITES", "60"))
CLIENTS = 8
KEY = "operator"
_log = logging.getLogger(__name__)
MODEL = "test/a"
FILE = f"models/{MODEL}.toml"


@pytest.fixture
def up() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


class Editor:
    """Rewrite the model's file again and again; every sound text has a price of its own."""

    def __init__(self, router: RouterServer, catalog: Path, first: str) -> None:
        self.prices_pusd = {first: (1_000_000, 2_000_000)}
        self.rewrites = 0
        self.rejections = 0
        self._router = router
        self._file = catalog / FILE

    def rewrite(self) -> None:
        """Write a faulty text or a sound one, and see that the router shows the one and takes the other."""
        number = self.rewrites = self.rewrites + 1
        price = (1_000_000 + 1_000 * number, 2_000_000 + 3_000 * number)
        sound = Offered(MODEL, price=(price[0] / 1_000_000, price[1] / 1_000_000)).toml()
        if number % 2 == 0:
            self._write(sound)
            document = self._reload()
            assert document["rejected"] is None
            assert document["revision"] not in self.prices_pusd
            self.prices_pusd[document["revision"]] = price
            return
        serving = self._serving()
        broken = (sound.replace("price =", "prise ="), sound + "= broken", sound[: len(sound) // 2], "")
        self._write(broken[number // 2 % len(broken)])
        document = self._reload()
        assert document["revision"] == serving
        assert {error["file"] for error in document["rejected"]["errors"]} == {FILE}
        self.rejections += 1

    def _write(self, text: str) -> None:
        """Write in two pieces, as an editor may; the watch looks at the file at any moment."""
        cut = text.find("features = [") + 12  # the first piece alone is no TOML
        with self._file.open("w") as file:
            file.write(text[:cut])
            file.flush()
            file.write(text[cut:])

    def _reload(self) -> dict[str, Any]:
        got = self._router.request("POST", "/admin/catalog/reload", None, bearer(KEY))
        assert got.status == 200
        document: dict[str, Any] = got.json
        return document

    def _serving(self) -> str:
        got = self._router.request("GET", "/admin/catalog", None, bearer(KEY))
        revision: str = got.json["revision"]
        return revision


def test_no_request_fails_and_each_is_billed_with_one_revision(up: ScriptedUpstream, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"scripted": up.base_url}, [Offered(MODEL)])
    with RouterServer(catalog, tmp_path / "data", admin_key=KEY) as router:
        editor = Editor(router, catalog, router.catalog.current.revision)
        answered = threading.Semaphore(0)

        def edit() -> None:
            for _ in range(REWRITES):
                editor.rewrite()
                for _ in range(REQUESTS // REWRITES):  # so the rewrites are spread over all requests
                    answered.acquire()

        def ask(number: int) -> Answer:
            model = ("auto", MODEL)[number % 2]
            try:
                return router.chat(f"Say hello to number {number}", model=model, stream=number % 3 == 0)
            finally:
                answered.release()

        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            editing = pool.submit(edit)
            answers = list(pool.map(ask, range(REQUESTS)))
            editing.result()
        wait_all_ended(router)
        rows = exported(router)

    assert (editor.rewrites, editor.rejections) == (REWRITES, REWRITES // 2)
    assert {answer.status for answer in answers} == {200}
    assert not [answer for answer in answers if b'"error"' in answer.body]
    settled = {row["request_id"]: row for row in rows if row["kind"] == "settle"}
    held = {row["request_id"]: row for row in rows if row["kind"] == "hold"}
    assert len(settled) == len(held) == len(answers)
    for answer in answers:
        row = settled[answer.headers["x-request-id"]]
        assert row["catalog"] == answer.headers["x-llm-router-catalog"]
        assert row["catalog"] == held[row["request_id"]]["catalog"]
        assert row["amount_nusd"] == row["upstream_cost_nusd"] == cost_nusd(editor, row)
    served = {row["catalog"] for row in settled.values()}
    assert len(served) > REWRITES // 3  # many revisions took part, and the bill of each was its own
    _log.info("%d requests, %d rewrites, %d revisions billed", len(answers), REWRITES, len(served))


def exported(router: RouterServer) -> list[dict[str, Any]]:
    """Return the ledger as `router ledger export --json` hands it out."""
    result = CliRunner().invoke(main, ["ledger", "export", "--json", "--data", str(router.data)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def cost_nusd(editor: Editor, row: dict[str, Any]) -> int:
    """Return what the row's tokens cost at the prices of the revision that it names."""
    prompt_pusd, completion_pusd = editor.prices_pusd[row["catalog"]]
    pusd = row["prompt_tokens"] * prompt_pusd + row["completion_tokens"] * completion_pusd
    return -(-pusd // 1_000)
