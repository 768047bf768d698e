"""The seam to every upstream: one call out, one answer in, as bytes.

A transport opens a `Call` and gives an `Exchange`. Faults are httpx's own exceptions (`ConnectError`,
`ConnectTimeout`, `ReadTimeout`, `ReadError`, `WriteError`, `RemoteProtocolError`, ...), whichever transport
is below, so callers know one tree.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from router.catalog.snapshot import Timeouts


class Call(Struct, frozen=True, gc=False):
    """Describe one POST to an upstream; header names are lower-case bytes, without host and length.

    `once` forbids a transport to send it again by itself, whatever became of it: it carries a payment.
    """

    url: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    timeouts: Timeouts
    once: bool = False


class Exchange(Protocol):
    """An answer that has begun: its head is here, its body is read piece by piece."""

    status: int
    headers: list[tuple[bytes, bytes]]

    async def read(self) -> bytes:
        """Return what has arrived, waiting for at least one byte; b"" once the body has ended whole.

        Raises httpx's `ReadTimeout` when the upstream is silent for longer than `timeouts.idle`, and
        `RemoteProtocolError` or `ReadError` when the body is cut.
        """
        ...

    async def aclose(self) -> None:
        """Give the connection back when the body was read to its end, else close it. May be repeated."""
        ...


class Transport(Protocol):
    """Open calls; cancelling `open` or a `read` closes the connection and harms nothing else."""

    async def open(self, call: Call) -> Exchange:
        """Send the call and wait for the head of the final answer (1xx are skipped)."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
