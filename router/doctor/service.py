"""The address, free or a router's own; the classifier, packaged or changed."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from router import __version__
from router.address import bound, place, reached_at, trouble
from router.classifier.model import ARTEFACT, WEIGHTS_FILE, ArtefactFault, Classifier
from router.doctor.finding import Finding, failure, note, ok, warning
from router.doctor.installed import DISTRIBUTION, again
from router.settings import Settings

ASK_S = 2.0


def address(settings: Settings) -> Iterator[Finding]:
    """Check the address that `serve` would take."""
    host, port = settings.host, settings.port
    try:
        bound(host, port).close()
    except OSError as fault:
        yield from _taken(settings, fault)
    else:
        yield ok("address", f"{place(host, port)} is free" if port else "any free port")


def _taken(settings: Settings, fault: OSError) -> Iterator[Finding]:
    where = place(settings.host, settings.port)
    found = _asked(settings, "/")
    if found is None or found[1].get("name") != "llm-router":
        said, fix = trouble(fault, settings.port)
        yield failure("address", f"{where} cannot be taken: {said}", fix)
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
    connection = http.client.HTTPConnection(reached_at(settings.host), settings.port, timeout=ASK_S)
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
        return failure("classifier", str(fault), again())
    said = f"{facts['data']['rows']:,} examples, sha256 {digest.hexdigest()[:12]}"
    recorded = _recorded(directory)
    if recorded is None:
        return note("classifier", f"{said}; runs from its sources, which record no hash")
    if recorded != digest.digest():
        return failure(
            "classifier",
            f"{said} is not what was packaged",
            f"{again()}; one of your own is better kept outside the package",
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
