"""Read the operator's catalog: files in, a frozen snapshot or every fault of every file out.

Nothing here writes. The layout and the words are in `models_catalog/README.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path

from router.catalog.build import World, build_model, build_provider
from router.catalog.faults import CatalogFaults, Report, Source
from router.catalog.local import LOCAL_PORTS, LocalServer, discovered_models
from router.catalog.policy import build_policy
from router.catalog.schema import ProviderFile
from router.catalog.snapshot import CATEGORIES, Category, Fault, Model, Offer, Price, Provider, Snapshot
from router.catalog.texts import catalog_files, model_id, parse_texts, read_texts, revision_of, stem

__all__ = [
    "CatalogFaults",
    "Fault",
    "LocalServer",
    "catalog_files",
    "check_catalog",
    "default_directory",
    "load_catalog",
    "read_providers",
]

PRICE_JUMP = 5
_Prices = Mapping[tuple[str, str, str], Price]


def default_directory(cwd: Path) -> Path:
    """Return where the catalog is: here, else in the installed package, else beside its checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (cwd / "models_catalog", package / "data"):
        if candidate.is_dir():
            return candidate
    return package.parents[1] / "models_catalog"


def load_catalog(
    directory: Path,
    *,
    environ: Mapping[str, str],
    today: date,
    local: Mapping[str, LocalServer] | None = None,
    local_ports: Mapping[int, str] = LOCAL_PORTS,
    running: Snapshot | None = None,
    unpayable: str | None = None,
) -> Snapshot:
    """Return the catalog of a directory; raises CatalogFaults with all that is wrong in it."""
    snapshot, faults, _ = check_catalog(
        directory,
        environ=environ,
        today=today,
        local=local,
        local_ports=local_ports,
        running=running,
        unpayable=unpayable,
    )
    if snapshot is None:
        raise CatalogFaults(faults)
    return snapshot


def check_catalog(
    directory: Path,
    *,
    environ: Mapping[str, str],
    today: date,
    local: Mapping[str, LocalServer] | None = None,
    local_ports: Mapping[int, str] = LOCAL_PORTS,
    running: Snapshot | None = None,
    unpayable: str | None = None,
) -> tuple[Snapshot | None, list[Fault], list[Fault]]:
    """Return (snapshot or None, faults, warnings) of a directory.

    `local` holds what the servers on this machine said, by provider name; `running` is the snapshot that
    serves now, against which moved prices are noticed; `unpayable` says what keeps the wallet from paying.
    """
    report = Report()
    texts = read_texts(directory, report)
    sources = parse_texts(texts, report)
    revision = revision_of(texts)
    world = World(
        environ=environ, today=today, local=local or {}, local_ports=local_ports, unpayable=unpayable
    )
    providers = _providers(sources, report)
    world = dataclasses.replace(
        world,
        providers=providers,
        provider_names=frozenset(stem(file) for file in texts if file.startswith("providers/")),
    )
    models = _models(sources, world, report)
    model_ids = {model_id(file) for file in texts if file.startswith("models/")}
    policy_source = sources.get("policy.toml", Source("policy.toml", ""))
    policy = build_policy(policy_source, model_ids, report)
    _warn_keys(sources, world, models, report)
    _warn_unpayable(sources, world, models, report)
    if not report.faults:
        _warn_unserved(policy_source, models, report)
    replaced = _replaced_prices(running, revision)
    _warn_moved_prices(sources, models, replaced, report)
    warnings = _in_order(report.warnings)
    if report.faults:
        return None, _in_order(report.faults), warnings
    for found in discovered_models(providers.values(), models, world.local):
        models[found.id] = found
    snapshot = Snapshot(
        revision=revision,
        models=models,
        providers=providers,
        policy=policy,
        files=len(texts),
        warnings=tuple(warnings),
        replaced=replaced,
    )
    return snapshot, [], warnings


def read_providers(directory: Path) -> dict[str, Provider]:
    """Return the providers whose files are sound, to know which local servers to ask before a load."""
    report = Report()
    texts = {
        file: raw for file, raw in read_texts(directory, report).items() if file.startswith("providers/")
    }
    return _providers(parse_texts(texts, report), report)


def _providers(sources: Mapping[str, Source], report: Report) -> dict[str, Provider]:
    providers: dict[str, Provider] = {}
    for file, source in sources.items():
        if not file.startswith("providers/"):
            continue
        table = report.parse(ProviderFile, source, source.data)
        if table is not None:
            name = stem(file)
            providers[name] = build_provider(name, table, source, report)
    return providers


def _models(sources: Mapping[str, Source], world: World, report: Report) -> dict[str, Model]:
    models: dict[str, Model] = {}
    for file, source in sources.items():
        if file.startswith("models/"):
            model = build_model(model_id(file), source, world, report)
            if model is not None:
                models[model.id] = model
    return models


def _warn_keys(
    sources: Mapping[str, Source], world: World, models: Mapping[str, Model], report: Report
) -> None:
    off: dict[str, int] = {}
    for offer in _offers(models.values()):
        off[offer.provider] = off.get(offer.provider, 0) + 1
    for name, provider in world.providers.items():
        if provider.key_env is None or world.environ.get(provider.key_env) or name not in off:
            continue
        offers = "1 offer is" if off[name] == 1 else f"{off[name]} offers are"
        said = f"{provider.key_env} is not set; {offers} off"
        report.warn(sources[f"providers/{name}.toml"], ("key_env",), said)


def _warn_unpayable(
    sources: Mapping[str, Source], world: World, models: Mapping[str, Model], report: Report
) -> None:
    """Warn where the wallet that a provider's offers need cannot pay."""
    if world.unpayable is None:
        return
    for name, provider in world.providers.items():
        if provider.pays in ("x402", "mpp") and any(o.provider == name for o in _offers(models.values())):
            said = f"its offers are off: {world.unpayable}"
            report.warn(sources[f"providers/{name}.toml"], ("pays",), said)


def _warn_unserved(policy: Source, models: Mapping[str, Model], report: Report) -> None:
    """Warn of a category that no rated model with an offer serves, whatever keys are set here.

    No model's file is at fault, so the place is the category's band in the policy.
    """
    for category in CATEGORIES:
        if not any(_could_serve(model, category) for model in models.values()):
            said = f"no model with an offer has a quality for {category}; auto cannot serve it"
            report.warn(policy, ("bands", category), said)


def _could_serve(model: Model, category: Category) -> bool:
    off = ("set enabled", "retired")
    return category in model.quality and any(
        offer.unusable is None or not offer.unusable.startswith(off) for offer in model.offers
    )


def _replaced_prices(running: Snapshot | None, revision: str) -> _Prices:
    """Return the prices before this revision: those that run now, unless they are this revision's own."""
    if running is None:
        return {}
    if running.revision == revision:
        return running.replaced
    return {(offer.model, *offer.key): offer.price for offer in _offers(running.models.values())}


def _warn_moved_prices(
    sources: Mapping[str, Source], models: Mapping[str, Model], replaced: _Prices, report: Report
) -> None:
    """Warn of a price that moved more than fivefold: usually a price per token or per thousand."""
    for offer in _offers(models.values()):
        old = replaced.get((offer.model, *offer.key))
        if old is None:
            continue
        for key, was, now in (
            ("input", old.input, offer.price.input),
            ("output", old.output, offer.price.output),
        ):
            if was and now and max(was, now) > PRICE_JUMP * min(was, now):
                source = sources[models[offer.model].file]
                said = f"{key} moved from {_usd(was)} to {_usd(now)} USD per million tokens; is it meant?"
                report.warn(source, ("offers", _index(source, offer), "price", key), said)


def _index(source: Source, offer: Offer) -> int:
    tables = source.data.get("offers", [])
    keys = [(table.get("provider"), table.get("model")) for table in tables]
    return keys.index(offer.key)


def _usd(pico: int) -> str:
    return f"{Decimal(pico).scaleb(-6).normalize():f}"


def _offers(models: Iterable[Model]) -> Iterator[Offer]:
    for model in models:
        yield from model.offers


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file, fault.line, fault.path))
