"""Read `/metrics` of a running router, and compare two readings."""

from __future__ import annotations

import http.client
import itertools
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

ASK_S = 3.0
LARGEST_BYTES = 16 << 20
_Labels = tuple[tuple[str, str], ...]


class Unreachable(Exception):
    """No router told its metrics; the message says why."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The figures of one moment (seconds of a clock that never steps), by name and sorted labels."""

    at_s: float
    figures: dict[tuple[str, _Labels], float]

    def sum(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels."""
        wanted = set(labels.items())
        return sum(v for (found, has), v in self.figures.items() if found == name and wanted <= set(has))

    def values(self, name: str, label: str) -> set[str]:
        """Return the values of a label."""
        return {value for found, has in self.figures if found == name for key, value in has if key == label}

    def samples(self, name: str) -> Iterator[dict[str, str]]:
        """Yield the labels of the samples of a name."""
        for found, has in self.figures:
            if found == name:
                yield dict(has)


def scrape(address: str, at_s: float) -> Scrape:
    """Ask the router at an address such as http://127.0.0.1:8402. Raises Unreachable."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:  # half a bracket, a port beyond 65535
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise Unreachable(f"{address} is no address: write it as http://127.0.0.1:8402 or http://[::1]:8402")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=ASK_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/metrics")
        answer = connection.getresponse()
        text = answer.read(LARGEST_BYTES).decode()
        if answer.status != 200:
            raise Unreachable(
                f"{address}/metrics answers {answer.status}; name the router itself, not a proxy"
            )
        figures = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except ssl.SSLError as fault:
        raise Unreachable(
            f"{address} and this command do not agree on TLS: {fault.reason}; the router itself speaks plain"
            " HTTP: name it as http://127.0.0.1:8402, or a proxy whose certificate is trusted here"
        ) from fault
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise Unreachable(f"no router answers at {address}: {fault}; start it with `router serve`") from fault
    finally:
        connection.close()
    if not any(name.startswith("router_") for name, _ in figures):
        raise Unreachable(f"what answers at {address} is no router; name one with --address")
    return Scrape(at_s, figures)


class Between:
    """What happened between two readings."""

    def __init__(self, old: Scrape, new: Scrape) -> None:
        self.old = old
        self.new = new
        self.seconds = max(1e-9, new.at_s - old.at_s)

    def grown(self, name: str, **labels: str) -> float:
        """Return how much counters grew; a router that started anew begins at nothing."""
        new, old = self.new.sum(name, **labels), self.old.sum(name, **labels)
        return new if new < old else new - old

    def rate(self, name: str, **labels: str) -> float:
        """Return how much they grew in a second."""
        return self.grown(name, **labels) / self.seconds

    def quantile(self, share: float, name: str) -> float | None:
        """Return the value below which a share of a histogram's lies; None where nothing was counted.

        Linear inside a bucket, the last bound for what lies above it, as Prometheus' histogram_quantile.
        """
        bounds = sorted(self.new.values(f"{name}_bucket", "le"), key=float)
        counts = [self.grown(f"{name}_bucket", le=bound) for bound in bounds]
        if not counts or counts[-1] <= 0:
            return None
        wanted = share * counts[-1]
        edges = [0.0, *(float(bound) for bound in bounds)]
        for (low, high), (before, up_to) in zip(
            itertools.pairwise(edges), itertools.pairwise([0.0, *counts]), strict=True
        ):
            if up_to >= wanted and up_to > before:
                if high == float("inf"):
                    return low
                return low + (high - low) * (wanted - before) / (up_to - before)
        return edges[-2]
