"""Tools of the tests that walk whole requests: the ledger's rows, a client that can leave at any moment."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from click.testing import CliRunner, Result

from router.cli import main
from router.ledger.rows import Row
from tests.router import Answer, Asking
from tests.service.ledgers import Books

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


class Kept(Protocol):
    """A router whose books are known."""

    data: Path
    database_url: str | None


def books_of(router: Kept) -> Books:
    """Return the books of a running router."""
    return Books(router.data, router.database_url)


def ledger_rows(router: Kept) -> list[Row]:
    """Return every row, oldest first."""
    return books_of(router).rows()


def request_id(answer: Answer) -> str:
    """Return the ledger's id of an answer whose client sent no id of its own."""
    return answer.headers["x-request-id"]


def wait_end(router: Kept, ledger_id: str) -> Row:
    """Return the settle or release of a request; it is written a moment after the answer's last byte."""
    books = books_of(router)

    def look() -> Row | None:
        return next((row for row in books.rows_of(ledger_id) if row.kind in ("settle", "release")), None)

    return wait_for(look, f"the end of {ledger_id}")


def wait_all_ended(router: Kept) -> list[Row]:
    """Return all rows once no hold is open, and check that the books are right."""
    books = books_of(router)

    def look() -> list[Row] | None:
        found = books.rows()
        ended = [row.request_id for row in found if row.kind in ("settle", "release")]
        held = [row.request_id for row in found if row.kind == "hold"]
        return found if sorted(held) == sorted(ended) else None

    found = wait_for(look, "the end of every hold")
    assert books.differences() == []
    return found


def run_command(router: Kept, *arguments: str) -> Result:
    """Run a command of `router` on the books of a running one."""
    environ = {"ROUTER_DATABASE_URL": router.database_url or ""}
    return CliRunner().invoke(main, [*arguments, "--data", str(router.data)], env=environ)


def make_key(router: Kept, *options: str) -> tuple[str, str]:
    """Make a key with the command line; returns its text and its id."""
    result = run_command(router, "keys", "create", "--name", "a test", "--json", *options)
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
        self,
        router: Asking,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/chat/completions",
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=20)
        self._response: http.client.HTTPResponse | None = None
        self.received = b""
        sent = {"content-type": "application/json", **(headers or {})}
        self._connection.request("POST", path, json.dumps(body).encode(), sent)

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
