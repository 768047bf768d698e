"""The catalog and its providers: faults with their lines, old prices, keys that are not set."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from router.catalog.files import check_catalog, read_providers
from router.catalog.local import LOCAL_PORTS
from router.catalog.snapshot import Fault, Provider, Snapshot
from router.doctor.finding import Finding, failure, note, ok, warning
from router.upstream.discover import probe_local

OLD_PRICE_DAYS = 60
RETIRES_WITHIN_DAYS = 30
CONNECT_S = 3.0
_SHOWN = 5


def catalog(
    directory: Path, environ: Mapping[str, str], today: date, ports: Mapping[int, str] = LOCAL_PORTS
) -> tuple[Snapshot | None, list[Finding]]:
    """Return the catalog of a folder, None where it is faulty, and what was found of it.

    Model servers of this machine on `ports` are asked what they serve.
    """
    if not directory.is_dir():
        return None, [failure("catalog", f"{directory} is no folder", "set ROUTER_CATALOG to a catalog")]
    snapshot, faults, warnings = check_catalog(
        directory,
        environ=environ,
        today=today,
        local=asyncio.run(probe_local(read_providers(directory).values(), ports=ports)),
        local_ports=ports,
    )
    if snapshot is None:
        fix = "correct the line; a running router goes on with the catalog from before"
        return None, [failure("catalog", f"{directory}/{fault}", fix) for fault in faults]
    offers = sum(len(model.offers) for model in snapshot.models.values())
    said = f"{directory}: {len(snapshot.models)} models, {offers} offers, revision {snapshot.revision}"
    return snapshot, [
        ok("catalog", said),
        *_prices(snapshot, today),
        *_retiring(snapshot, today),
        *_rest(warnings),
    ]


def _prices(snapshot: Snapshot, today: date) -> Iterator[Finding]:
    ages = [
        ((today - offer.price_as_of).days, f"{offer.model} at {offer.provider}")
        for model in snapshot.models.values()
        for offer in model.offers
        if offer.price_as_of is not None and offer.unusable is None
    ]
    old = sorted((age for age in ages if age[0] > OLD_PRICE_DAYS), reverse=True)
    if old:
        yield warning(
            "prices",
            f"{len(old)} of {len(ages)} prices in use are older than {OLD_PRICE_DAYS} days: "
            + _some([f"{name} ({days} days)" for days, name in old]),
            "compare them at the providers and set price and price_as_of",
        )
    elif ages:
        yield ok("prices", f"the oldest in use is {max(ages)[0]} days old")


def _retiring(snapshot: Snapshot, today: date) -> Iterator[Finding]:
    soon = [
        f"{model.id} ({model.retires})"
        for model in sorted(snapshot.models.values(), key=lambda m: (m.retires or date.max, m.id))
        if model.retires is not None
        and (model.retires - today).days <= RETIRES_WITHIN_DAYS
        and any(offer.unusable is None or model.retires <= today for offer in model.offers)
    ]
    if soon:
        yield warning(
            "retiring",
            f"{len(soon)} models retire within {RETIRES_WITHIN_DAYS} days or have: {_some(soon)}",
            "add what replaces them, and delete their files",
        )


def _rest(warnings: Iterable[Fault]) -> Iterator[Finding]:
    """Find the warnings that the checks above do not already tell in words of their own."""
    told = ("retires", "key_env")
    left = [str(w) for w in warnings if w.path not in told and not w.path.endswith("price_as_of")]
    if left:
        yield warning("catalog", f"{len(left)} warnings: {_some(left)}", "run `router catalog check` for all")


def providers(snapshot: Snapshot, environ: Mapping[str, str], *, demo_when_empty: bool) -> Iterator[Finding]:
    """Check which providers' keys are set; asks nobody."""
    counts = Counter(offer.provider for model in snapshot.models.values() for offer in model.offers)
    usable = {o.provider for model in snapshot.models.values() for o in model.offers if o.unusable is None}
    unset = []
    for provider in snapshot.providers.values():
        if provider.key_env is None or not counts[provider.name]:
            continue
        value = environ.get(provider.key_env, "")
        if not value.strip():
            unset.append(provider.key_env)
        elif value != value.strip() or not value.strip().isprintable() or " " in value.strip():
            yield warning(
                "providers",
                f"{provider.key_env} has blanks or line ends in or around it",
                f"set {provider.key_env} to the key alone",
            )
        else:
            yield ok(
                "providers", f"{provider.title}: {provider.key_env} is set, {counts[provider.name]} offers"
            )
    if unset:
        names = _some(sorted(set(unset)))
        if usable:
            yield note(
                "providers", f"{len(set(unset))} keys are not set: {names}", "set those of providers you use"
            )
        elif demo_when_empty:
            fix = f"set one of {names}, or start a local model server"
            yield note("providers", "no offer can be used: the built-in demo answers", fix)
        else:
            fix = f"set one of {names}: with paid access the demo does not stand in"
            yield failure("providers", "no offer can be used", fix)


async def reachable(snapshot: Snapshot) -> list[Finding]:
    """Open a TCP connection to each provider with offers that can be used, and close it; nothing is sent."""
    used = {o.provider for model in snapshot.models.values() for o in model.offers if o.unusable is None}
    wanted = [snapshot.providers[name] for name in sorted(used)]
    return list(await asyncio.gather(*(_reach(provider) for provider in wanted)))


async def _reach(provider: Provider) -> Finding:
    parts = urlsplit(provider.base_url)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as fault:  # a time-out is one too
        why = fault.strerror or f"no answer in {CONNECT_S:g} s"
        return warning(
            "reachable",
            f"{provider.title} at {host}:{port}: {why}",
            f"check the network, its proxy and base_url in providers/{provider.name}.toml",
        )
    writer.close()
    return ok("reachable", f"{provider.title} at {host}:{port}")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
