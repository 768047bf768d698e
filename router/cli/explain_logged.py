"""`router explain --request ID`: the decision that was made, from the log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path


def logged(data: Path, request_id: str) -> tuple[bytes, dict[str, Any], str]:
    """Return a request's line of the log, the decision in it as `explain` shows one, and what became of it.

    The id is ours or the client's own `x-request-id`; of several requests with it the last one counts. A
    request that is not there ends the command.
    """
    import msgspec

    from router.cli.logs import in_words
    from router.routing.recorded import DecisionLine
    from router.telemetry.decisions import FOLDER

    raw = _last_line_of(data / FOLDER, request_id)
    if raw is None:
        raise click.ClickException(
            f"{data / FOLDER} has no request {request_id!r}: `router logs` shows the last ids, --data names "
            "another folder; what was refused before it was decided is not there, and the oldest files go"
        )
    try:
        line = msgspec.json.decode(raw, type=DecisionLine)
    except msgspec.DecodeError as fault:
        raise click.ClickException(f"another version wrote this decision: {fault}") from None
    said = msgspec.json.decode(raw)
    return raw, {**said, "words": [], "set_aside": [], "refusal": line.actual.outcome}, in_words(line)


def _last_line_of(directory: Path, request_id: str) -> bytes | None:
    """Return the last line that is about a request, None where there is none; half a line does not count."""
    from router.telemetry.decisions import decision_files

    said = json.dumps(request_id)
    parts = [f'"{name}":{said}'.encode() for name in ("request_id", "client_request_id")]
    for path in reversed(decision_files(directory)):
        found = None
        try:
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"}\n") and any(part in line for part in parts):
                        found = line.rstrip()
        except FileNotFoundError:  # rotated away since it was listed
            continue
        if found is not None:
            return found
    return None
