"""Ask a Redis whether it can be used for what replicas share."""

from __future__ import annotations

from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

LEAST_MAJOR = 7
ASK_S = 2.0


def examine_redis(url: str) -> tuple[str, str | None]:
    """Return what is there, and what is wrong with it (None: nothing)."""
    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    try:
        asked = Redis.from_url(
            url, socket_timeout=ASK_S, socket_connect_timeout=ASK_S, retry=Retry(NoBackoff(), 0)
        )
        with asked:
            told = asked.info("server")
            policy = asked.info("memory").get("maxmemory_policy", "noeviction")
    except (RedisError, OSError, ValueError) as fault:
        return f"Redis at {where}", str(fault)
    version = str(told["redis_version"])
    shown = f"Redis {version} at {where}"
    if int(version.split(".", maxsplit=1)[0]) < LEAST_MAJOR:
        return shown, f"it must be {LEAST_MAJOR} or newer"
    if told.get("redis_mode") == "cluster":
        return shown, "it is a cluster, whose keys are on several machines"
    if policy != "noeviction":
        return shown, f"it forgets limits when it is full (maxmemory-policy {policy})"
    return shown, None
