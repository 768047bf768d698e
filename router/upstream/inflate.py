"""Bounded decompression for an upstream that compresses although it was asked not to."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

import httpx2 as httpx

INFLATED_LIMIT = 64 * 1024 * 1024
_PIECE = 256 * 1024
_GZIP_WBITS = 31
_ZLIB_WBITS = 15
_RAW_WBITS = -15
_GZIP_MAGIC = b"\x1f\x8b"


class Inflater:
    """Inflate a body piece by piece; never more than 256 KiB at once and 64 MiB in all.

    `deflate` means zlib data (RFC 9110 section 8.4.1.2), but servers exist that send it bare: the first
    byte tells them apart. Several gzip members are one body (RFC 1952 section 2.2).
    """

    __slots__ = ("_gzip", "_input", "_more", "_total", "_z")

    def __init__(self, encoding: bytes) -> None:
        self._gzip = encoding != b"deflate"
        self._z: zlib._Decompress | None = None
        self._input = b""
        self._more = False  # zlib may hold output back after its input is used up
        self._total = 0

    @staticmethod
    def undoing(encoding: bytes) -> Inflater | None:
        """Return what undoes a content-encoding (lower case), None for identity.

        Raises httpx's `RemoteProtocolError` for any other: it was not asked for and cannot be bounded.
        """
        if encoding in (b"", b"identity"):
            return None
        if encoding not in (b"gzip", b"x-gzip", b"deflate"):
            raise httpx.RemoteProtocolError(
                "the answer's content-encoding was not asked for; only identity, gzip and deflate are read"
            )
        return Inflater(encoding)

    def push(self, data: bytes) -> None:
        """Add compressed bytes; call it only when `pull` has returned b""."""
        self._input += data

    def pull(self) -> bytes:
        """Return the next inflated bytes, b"" when more input is needed.

        Raises httpx's `RemoteProtocolError` for data that is broken or inflates beyond the limit.
        """
        while self._input or self._more:
            if self._z is not None and self._z.eof:
                self._begin_next_member()
                continue
            if self._z is None:
                self._z = self._start(self._input)
            try:
                piece = self._z.decompress(self._input, _PIECE)
            except zlib.error as fault:
                raise httpx.RemoteProtocolError(f"the compressed body is broken: {fault}") from fault
            self._input = self._z.unused_data if self._z.eof else self._z.unconsumed_tail
            self._more = len(piece) == _PIECE and not self._z.eof
            if piece:
                self._count(len(piece))
                return piece
        return b""

    def finish(self) -> None:
        """Raise `RemoteProtocolError` when the body ended inside the compressed data."""
        if self._z is not None and not self._z.eof:
            raise httpx.RemoteProtocolError("the compressed body is cut short")

    def _start(self, data: bytes) -> zlib._Decompress:
        if self._gzip:
            return zlib.decompressobj(_GZIP_WBITS)
        is_zlib = data[0] & 0x0F == zlib.DEFLATED
        return zlib.decompressobj(_ZLIB_WBITS if is_zlib else _RAW_WBITS)

    def _begin_next_member(self) -> None:
        """Begin the next gzip member; whatever else follows the data is dropped, as gzip does."""
        if self._gzip and _GZIP_MAGIC.startswith(self._input[:2]):
            self._z = None
        else:
            self._input = b""

    def _count(self, size: int) -> None:
        self._total += size
        if self._total > INFLATED_LIMIT:
            raise httpx.RemoteProtocolError(
                f"the compressed body inflates to more than {INFLATED_LIMIT >> 20} MiB"
            )


async def read_inflated(inflater: Inflater, take: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return the next inflated bytes of what `take` gives, b"" once that has ended whole."""
    while not (piece := inflater.pull()):
        data = await take()
        if not data:
            inflater.finish()
            return b""
        inflater.push(data)
    if len(piece) == _PIECE:  # more is at hand, up to a third of a second's work: others first
        await asyncio.sleep(0)
    return piece


def without_coding(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Drop the headers that describe the compressed form."""
    return [header for header in headers if header[0] not in (b"content-encoding", b"content-length")]
