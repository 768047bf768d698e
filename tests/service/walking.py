"""Tools of the tests that walk whole requests: the ledger's rows, a client that can leave at any moment."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from click.testing import CliRunner

from router.cli import main
from router.ledger import books
from router.ledger.rows import Row
from router.ledger.sqlite import FILE, Database
from tests.router import Answer, RouterServer

T = TypeVar("T")
POLL_S = 0.005


def wait_for(look: Callable[[], T | None], what: str, timeout_s: float = 5.0) -> T:
    """Look until something is there; fails after `timeout_s`."""
    end_s = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > end_s:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        time.sleep(POLL_S)


@contextmanager
def database(router: RouterServer) -> Iterator[Database]:
    opened = Database(router.data / FILE)
    try:
        yield opened
    finally:
        opened.close()


def ledger_rows(router: RouterServer) -> list[Row]:
    """Return every row, oldest first."""
    with database(router) as opened:
        return list(books.rows(opened))


def request_id(answer: Answer) -> str:
    """Return the ledger's id of an answer whose client sent no id of its own."""
    return answer.headers["x-request-id"]


def wait_end(router: RouterServer, ledger_id: str) -> Row:
    """Return the settle or release of a request; it is written a moment after the answer's last byte."""
    with database(router) as opened:

        def look() -> Row | None:
            rows = books.rows_of(opened, ledger_id)
            return next((row for row in rows if row.kind in ("settle", "release")), None)

        return wait_for(look, f"the end of {ledger_id}")


def wait_all_ended(router: RouterServer) -> list[Row]:
    """Return all rows once no hold is open, and check that the books are right."""
    with database(router) as opened:

        def look() -> list[Row] | None:
            rows = list(books.rows(opened))
            ended = [row.request_id for row in rows if row.kind in ("settle", "release")]
            held = [row.request_id for row in rows if row.kind == "hold"]
            return rows if sorted(held) == sorted(ended) else None

        rows = wait_for(look, "the end of every hold")
        assert books.check(opened) == []
        return rows


def make_key(router: RouterServer, *options: str) -> tuple[str, str]:
    """Make a key with the command line; returns its text and its id."""
    arguments = ["keys", "create", "--name", "a test", "--json", "--data", str(router.data), *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    return made["key"], made["id"]


def sse_data(body: bytes) -> list[str]:
    """Return the data of every event, `[DONE]` included (WHATWG HTML, 9.2: any line end, several lines)."""
    events: list[list[str]] = [[]]
    for line in re.split(r"\r\n|\n|\r", body.decode()):
        if not line:
            events.append([])
        elif line.startswith("data:"):
            events[-1].append(line[5:].removeprefix(" "))
    return ["\n".join(lines) for lines in events if lines]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def question(text: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


class Client:
    """One request on a connection of its own, read as slowly as a test wants."""

    def __init__(
        self, router: RouterServer, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=20)
        self._response: http.client.HTTPResponse | None = None
        self.received = b""
        sent = {"content-type": "application/json", **(headers or {})}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), sent)

    def head(self) -> Answer:
        """Wait for the head."""
        self._response = got = self._connection.getresponse()
        return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, b"")

    def read_until(self, text: bytes) -> bytes:
        """Read until a text has come; returns all that came so far."""
        assert self._response is not None
        while text not in self.received:
            piece = self._response.read1()
            assert piece, f"the answer ended before {text!r}: {self.received!r}"
            self.received += piece
        return self.received

    def read_rest(self) -> bytes:
        """Read to the end."""
        assert self._response is not None
        self.received += self._response.read()
        self.leave()
        return self.received

    def leave(self) -> None:
        """Close the connection, whatever has come."""
        self._connection.close()
