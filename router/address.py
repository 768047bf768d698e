"""The address that the router listens on: taking it, what to do where that fails, and how it is reached."""

from __future__ import annotations

import errno
import socket

# Who listens on every address is on loopback too; a container may have no ::1.
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - compared with, never bound
_ANOTHER_HOST = "set --host or ROUTER_HOST: 127.0.0.1 is for programs on this machine, 0.0.0.0 for others too"
_ANOTHER_PORT = "take another port with --port or ROUTER_PORT"
_FREE_FOR_ALL = 1024


def bound(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Return a socket that is bound, and listens where a backlog is given.

    Raises OSError, which `trouble` explains.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; else small writes wait 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        if backlog is not None:
            made.listen(backlog)
    except OSError:
        made.close()
        raise
    except TypeError as fault:  # a name that cannot be written in ASCII (IDNA, RFC 5890)
        made.close()
        raise socket.gaierror(str(fault)) from None
    return made


def trouble(fault: OSError, port: int) -> tuple[str, str]:
    """Return what keeps an address from being taken, and what mends that."""
    if isinstance(fault, socket.gaierror):
        return "that is no address, and no name that this machine can look up", _ANOTHER_HOST
    if fault.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; that of a proxy or of a cloud is not its own", _ANOTHER_HOST
    if fault.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6", _ANOTHER_HOST
    if fault.errno == errno.EADDRINUSE:
        return "something listens there already", f"stop it, if it is an old router, or {_ANOTHER_PORT}"
    if fault.errno in (errno.EACCES, errno.EPERM) and port < _FREE_FOR_ALL:
        more = "with a proxy before it (deploy/Caddyfile), or start it with CAP_NET_BIND_SERVICE"
        return f"ports below {_FREE_FOR_ALL} are for root", f"{_ANOTHER_PORT}, {more}"
    return fault.strerror or str(fault), f"{_ANOTHER_PORT}; {_ANOTHER_HOST}"


def reached_at(host: str) -> str:
    """Return the host by which a program on this machine reaches what listens at `host`."""
    return _ANYWHERE.get(host, host)


def origin_at(host: str, port: int) -> str:
    """Return the origin by which a program on this machine reaches what listens there."""
    return f"http://{place(reached_at(host), port)}"


def place(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
