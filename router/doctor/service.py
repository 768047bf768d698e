"""The address, free or a router's own; the classifier, packaged or changed."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from router import __version__
from router.classifier.model import ARTEFACT, WEIGHTS_FILE, ArtefactFault, Classifier
from router.doctor.finding import Finding, failure, note, ok, warning
from router.doctor.machine import DISTRIBUTION
from router.settings import Settings

ASK_S = 2.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, never bound


def address(settings: Settings) -> Iterator[Finding]:
    """Check the address that `serve` would take."""
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            yield from _taken(settings, fault)
            return
    yield ok("address", f"{host}:{port} is free" if port else "any free port")


def _taken(settings: Settings, fault: OSError) -> Iterator[Finding]:
    where = f"{settings.host}:{settings.port}"
    found = _asked(settings, "/")
    if found is None or found[1].get("name") != "llm-router":
        yield failure(
            "address",
            f"{where} cannot be taken: {fault.strerror}",
            "stop what listens there, or choose another with --port or ROUTER_PORT",
        )
        return
    version = found[1].get("version")
    if version == __version__:
        yield ok("address", f"this router ({version}) answers on {where}")
    else:
        yield warning(
            "address",
            f"router {version} answers on {where}, {__version__} is installed",
            "restart the service",
        )
    ready = _asked(settings, "/health/ready")
    if ready is None or ready[0] != 200:
        said = "does not answer" if ready is None else ready[1].get("error", {}).get("message", str(ready[0]))
        yield failure("readiness", f"/health/ready: {said}", "read the service's log; it names what is away")
    else:
        more = ", ".join(f"{name} {value}" for name, value in ready[1].items() if name != "status")
        yield ok("readiness", f"ready{': ' + more if more else ''}")
        if ready[1].get("limits") == "local":
            yield warning(
                "readiness",
                "limits are this replica's part: Redis is away",
                "start Redis, or check ROUTER_SHARED_URL",
            )


def _asked(settings: Settings, path: str) -> tuple[int, dict[str, Any]] | None:
    """Return the status and the JSON of a page, None where none came."""
    host = _ANYWHERE.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=ASK_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        found = json.loads(answer.read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return (answer.status, found) if isinstance(found, dict) else None


def classifier(directory: Path = ARTEFACT) -> Finding:
    """Check that the classifier can be read and, where it came in a package, is what that has a hash of."""
    try:
        facts = Classifier.load(directory).facts
        digest = hashlib.sha256((directory / WEIGHTS_FILE).read_bytes())
    except (ArtefactFault, OSError) as fault:
        return failure("classifier", str(fault), f"pip install --force-reinstall {DISTRIBUTION}")
    said = f"{facts['data']['rows']:,} examples, sha256 {digest.hexdigest()[:12]}"
    recorded = _recorded(directory)
    if recorded is None:
        return note("classifier", f"{said}; runs from its sources, which record no hash")
    if recorded != digest.digest():
        return failure(
            "classifier",
            f"{said} is not what was packaged",
            f"pip install --force-reinstall {DISTRIBUTION}, or keep your own outside the package",
        )
    return ok("classifier", f"{said}, as packaged")


def _recorded(directory: Path) -> bytes | None:
    """Return the SHA-256 that the installed package records of the weights."""
    import base64

    try:
        files = metadata.distribution(DISTRIBUTION).files or ()
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if (
            file.hash is not None
            and Path(str(file.locate())).resolve() == (directory / WEIGHTS_FILE).resolve()
        ):
            text = file.hash.value
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return None
