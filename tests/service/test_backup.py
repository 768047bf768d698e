"""The commands of docs/scaling.md for backup and restore, run as printed beside a ledger in use."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from router.ledger.sqlite import FILE
from tests.postgres import Cluster, binaries
from tests.service.ledgers import Books, request, running, settlement
from tests.serving import run_router

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
HOLDS = 3


def printed(beginning: str) -> list[str]:
    """Return the words of the one command in the page that begins so."""
    (line,) = re.findall(rf"^{beginning}.*$", PAGE, re.MULTILINE)
    return shlex.split(line)


def run(command: list[str], **environ: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, check=False)
    assert done.returncode == 0, done.stderr


def check(folder: Path, books: Books) -> None:
    environ = {} if books.url is None else {"ROUTER_DATABASE_URL": books.url}
    done = run_router(folder, "ledger", "check", "--data", str(books.data), **environ)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_copy_of_a_sqlite_ledger_in_use_is_whole(tmp_path: Path) -> None:
    books, copy = Books(tmp_path / "live"), Books(tmp_path / "copy")
    books.add_credit(1_000)
    copy.data.mkdir(mode=0o700)
    command = printed("python -c 'import sqlite3")[1:]
    paths = {".router/router.db": str(books.data / FILE), "backup.db": str(copy.data / FILE)}
    ledger = books.open(time.time)
    with running(ledger) as runner:
        for number in range(HOLDS):
            runner.run(ledger.hold(request(number)))
        runner.run(ledger.settle(settlement(0)))
        run([sys.executable, *(paths.get(word, word) for word in command)])
        runner.run(ledger.settle(settlement(1)))
    assert copy.rows() == books.rows()[: 1 + HOLDS + 1]
    check(tmp_path, copy)
    ledger = copy.open(time.time)
    with running(ledger) as runner:
        assert runner.run(ledger.end_open_holds()) == HOLDS - 1
    assert copy.account().held_nusd == 0
    assert copy.differences() == []


def test_a_dump_of_a_postgresql_ledger_in_use_is_whole(cluster: Cluster, tmp_path: Path) -> None:
    path = f"{binaries()}:{os.environ['PATH']}"
    if shutil.which("pg_dump", path=path) is None:
        assert "CI" not in os.environ, "CI must have pg_dump (Debian: apt-get install postgresql)"
        pytest.skip("no pg_dump here (Debian: apt-get install postgresql-client)")
    books = Books(tmp_path / "live", cluster.make_database())
    copy = Books(tmp_path / "copy", cluster.make_database())
    books.add_credit(1_000)
    dump, restore = (printed(name) for name in ("pg_dump", "pg_restore"))

    def use(command: list[str], url: str | None) -> None:
        words = {"router.dump": str(tmp_path / "dump"), "$ROUTER_DATABASE_URL": str(url)}
        run([_named(word, words) for word in command], PATH=path)

    ledger = books.open(time.time)
    with running(ledger) as runner:
        for number in range(HOLDS):
            runner.run(ledger.hold(request(number)))
        runner.run(ledger.settle(settlement(0)))
        use(dump, books.url)
        runner.run(ledger.settle(settlement(1)))
    use(restore, copy.url)
    assert copy.rows() == books.rows()[: 1 + HOLDS + 1]
    check(tmp_path, copy)


def _named(word: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word
