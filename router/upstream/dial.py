"""Open sockets: addresses are looked up for each connection, IPv6 and IPv4 race (RFC 8305)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any

HEAD_START_S = 0.25
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


async def dial(host: str, port: int) -> socket.socket:
    """Return a connected, non-blocking socket with TCP_NODELAY.

    A later address starts when the one before failed or has had its head start (RFC 8305 section 5);
    uvloop has no such thing of its own. Raises the OSError of the last failure, UnicodeError for a host
    name that cannot be looked up.
    """
    addresses = await _addresses(host, port)
    if len(addresses) == 1:
        return await _connect(addresses[0])
    return await race(addresses)


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        pass
    else:
        return [(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[socket.AddressFamily, list[Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    return [a for a in chain.from_iterable(zip_longest(*families.values())) if a is not None]


async def _connect(address: Address) -> socket.socket:
    family, target = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:  # cancelled included: nobody else knows this socket
        sock.close()
        raise
    return sock


async def race(addresses: Iterable[Address]) -> socket.socket:
    """Return the first connection that any of the addresses accepts; losers are closed."""
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    fault: OSError | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_connect(waiting.pop(0))))
            done, running = await asyncio.wait(
                running,
                timeout=HEAD_START_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            won = [task for task in done if task.exception() is None]
            for task in won[1:]:
                task.result().close()
            if won:
                return won[0].result()
            for task in done:
                fault = _os_error(task.exception()) or fault
        raise fault or OSError("the host name has no address")
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_drop)


def _os_error(fault: BaseException | None) -> OSError | None:
    """Keep what a refused attempt said; anything else is a defect and goes up."""
    if fault is None or isinstance(fault, OSError):
        return fault
    raise fault


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that finished although it had lost."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
