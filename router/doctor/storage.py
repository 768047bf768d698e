"""The database of the books, and the Redis that replicas share."""

from __future__ import annotations

import os
from collections.abc import Iterator

from router.doctor.finding import Finding, failure, ok, warning
from router.doctor.machine import existing
from router.ledger.engines import has_storage
from router.ledger.examine import Newer, Trouble, examine_postgres, examine_sqlite
from router.settings import Settings

_UPGRADE = "upgrade this router, or restore the backup from before the newer one (docs/operations.md)"


def database(settings: Settings) -> Finding:
    """Check that the books can be written; a database that is not there yet is not made."""
    url = settings.storage_url
    if url is not None:
        try:
            return ok("database", examine_postgres(url))
        except Newer as newer:
            return failure("database", str(newer), _UPGRADE)
        except Trouble as trouble:
            fix = "start the server, or correct ROUTER_DATABASE_URL"
            return failure("database", str(trouble), fix)
    if settings.data.exists() and not settings.data.is_dir():
        return failure(
            "database", f"{settings.data} is no folder", "name a folder with --data or ROUTER_DATA"
        )
    if not has_storage(settings.data, None):
        folder = existing(settings.data)
        if os.access(folder, os.W_OK | os.X_OK):
            return ok("database", f"none yet: SQLite in {settings.data}, made at the first start")
        return failure(
            "database",
            f"{folder} cannot be written by user {os.geteuid()}",
            f"chown {os.geteuid()} {folder}, or choose another folder with --data or ROUTER_DATA",
        )
    try:
        return ok("database", f"SQLite in {settings.data}: {', '.join(examine_sqlite(settings.data))}")
    except Newer as newer:
        return failure("database", str(newer), _UPGRADE)
    except Trouble as trouble:
        return failure(
            "database",
            str(trouble),
            "make the folder writable for this user; a damaged file: stop the service, restore a backup"
            " (docs/operations.md)",
        )


def shared(settings: Settings) -> Iterator[Finding]:
    """Check what replicas share; nothing where there is one machine."""
    if settings.redis_url is None:
        return
    from router.shared.examine import examine_redis

    said, wrong = examine_redis(settings.redis_url)
    if wrong is None:
        yield ok("redis", said)
    else:
        yield warning(
            "redis",
            f"{said}: {wrong}; each replica goes by its part of the limits",
            "start a Redis 7 or newer with maxmemory-policy noeviction, or correct ROUTER_SHARED_URL",
        )
