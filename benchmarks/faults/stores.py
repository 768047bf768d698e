"""The private servers that a service keeps its books and its limits in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.postgres import Cluster, binaries


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a private PostgreSQL. Raises SystemExit where it is not installed."""
    folder = binaries()
    if folder is None:
        raise SystemExit("no PostgreSQL here: apt-get install postgresql")
    with Cluster(folder) as running:
        yield running


@contextmanager
def environ_of(*, postgres: bool) -> Iterator[dict[str, str]]:
    """Give the settings of a service with empty books, in a PostgreSQL of its own or in its folder."""
    if not postgres:
        yield {}
        return
    with cluster() as running:
        yield {"ROUTER_DATABASE_URL": running.make_database()}
