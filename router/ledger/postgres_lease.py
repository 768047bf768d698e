"""Tell the holds of a living process from those of a dead one, where processes are on many machines.

Each process has a row in `owners` that it renews every two seconds. Another takes it for dead when the row
has expired by the database's clock, after ten, and when it has itself seen the row unchanged for as long
without being out of touch with the database: when that is back after a minute, all leases have expired and
nobody is dead. On the machine of a dead process its lock file says so at once (`router.ledger.owners`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from router.ledger.rows import Progress

_log = logging.getLogger("router.ledger")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a lease is renewed, and how long it lasts."""

    renew_s: float = 2.0
    lease_s: float = 10.0


def process_of(lease: str) -> str:
    """Return the id of the process that took a lease; its lock file has that name."""
    return lease.partition(".")[0]


class Lease:
    """The lease of this process, and what it has seen of the others'. Each method raises AWAY."""

    def __init__(self, owner: str, monotonic: Callable[[], float], pace: Pace) -> None:
        self._owner = owner
        self._monotonic = monotonic
        self._pace = pace
        self._taken = 0
        self._seen: dict[str, tuple[datetime, float]] = {}
        self._in_touch_s = -pace.lease_s
        self.id = ""
        self.expired: tuple[str, ...] = ()

    async def take(self, connection: asyncpg.Connection) -> None:
        """Take a new lease: one that others have ended does not come back, they may still end its holds."""
        lease = f"{self._owner}.{self._taken + 1}"
        await connection.execute(_TAKE, lease, self._pace.lease_s)
        self._taken += 1
        self.id = lease

    async def renew(self, connection: asyncpg.Connection, progress: Collection[Progress]) -> bool:
        """Renew the lease and write down what was delivered; False when others have ended it."""
        if await connection.execute(_RENEW, self.id, self._pace.lease_s) != "UPDATE 1":
            return False
        if progress:
            rows = [
                (
                    each.request_id,
                    each.prompt_tokens,
                    each.completion_tokens,
                    each.charge_nusd,
                    each.upstream_cost_nusd,
                    each.model,
                    each.provider,
                )
                for each in progress
            ]
            await connection.execute(_PROGRESS, *(list(column) for column in zip(*rows, strict=True)))
        return True

    async def look(self, connection: asyncpg.Connection) -> None:
        """See which leases of others have expired."""
        rows = await connection.fetch(_OTHERS, self.id)
        now_s = self._monotonic()
        if now_s - self._in_touch_s > 2 * self._pace.renew_s:
            self._seen = {}
        self._in_touch_s = now_s
        before, self._seen = self._seen, {}
        expired = []
        for lease, expires_at, over in rows:
            known = before.get(lease)
            since_s = known[1] if known is not None and known[0] == expires_at else now_s
            self._seen[lease] = (expires_at, since_s)
            if over and now_s - since_s >= self._pace.lease_s:
                expired.append(lease)
        self.expired = tuple(expired)

    async def others(self, connection: asyncpg.Connection) -> list[str]:
        """Return the leases of others, expired ones too."""
        return [row[0] for row in await connection.fetch(_OTHERS, self.id)]

    async def give_up(self, connection: asyncpg.Connection) -> None:
        """End the lease; what is still held under it is anybody's to end."""
        await connection.execute("DELETE FROM owners WHERE id = $1", self.id)

    async def bury(self, connection: asyncpg.Connection, dead: Collection[str]) -> None:
        """End these leases of processes that are dead for sure, and those that were seen to expire.

        No hold is written under them from here on.
        """
        gone = await connection.fetch(_BURY, list(dead), list(self.expired))
        for (lease,) in gone:
            _log.warning("the process %s is dead: its lease has ended", lease)


_TAKE = """
INSERT INTO owners (id, expires_at) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
"""
_RENEW = "UPDATE owners SET expires_at = clock_timestamp() + make_interval(secs => $2) WHERE id = $1"
_OTHERS = "SELECT id, expires_at, expires_at < clock_timestamp() FROM owners WHERE id <> $1"
_BURY = """
DELETE FROM owners WHERE id = ANY($1::text[])
    OR (id = ANY($2::text[]) AND expires_at < clock_timestamp()) RETURNING id
"""
# It waits for no row: whoever ends these holds now may wait for the next one.
_PROGRESS = """
UPDATE open_holds SET prompt_tokens = new.prompt_tokens, completion_tokens = new.completion_tokens,
    charge_nusd = new.charge_nusd, upstream_cost_nusd = new.upstream_cost_nusd, model = new.model,
    provider = new.provider
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
    AS new (request_id, prompt_tokens, completion_tokens, charge_nusd, upstream_cost_nusd, model, provider)
WHERE open_holds.request_id = new.request_id AND open_holds.request_id IN (
    SELECT request_id FROM open_holds WHERE request_id = ANY($1::text[]) FOR UPDATE SKIP LOCKED
)
"""
