"""Read the operator's catalog: files in, a frozen snapshot or every fault of every file out.

Nothing here writes. The layout and the words are in `models_catalog/README.md`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path, PurePosixPath

from router.catalog.build import World, build_model, build_provider
from router.catalog.faults import CatalogFaults, Fault, Report, Source, did_you_mean, syntax_fault
from router.catalog.local import LOCAL_PORTS, LocalServer, discovered_models
from router.catalog.policy import build_policy
from router.catalog.schema import ProviderFile
from router.catalog.snapshot import CATEGORIES, Category, Model, Offer, Provider, Snapshot

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
_ID = re.compile(r"[a-z0-9][a-z0-9._:-]*(?:/[a-z0-9][a-z0-9._:-]*)*")
_IGNORED = re.compile(r"\..*|.*(?:~|\.sw[a-p]|\.bak|\.orig|\.tmp|\.md)|#.*#|4913|__pycache__", re.IGNORECASE)
_MAX_DEPTH = 6


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
) -> Snapshot:
    """Return the catalog of a directory; raises CatalogFaults with all that is wrong in it."""
    snapshot, faults, _ = check_catalog(
        directory, environ=environ, today=today, local=local, local_ports=local_ports, running=running
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
) -> tuple[Snapshot | None, list[Fault], list[Fault]]:
    """Return (snapshot or None, faults, warnings) of a directory.

    `local` holds what the servers on this machine said, by provider name; `running` is the snapshot that
    serves now, against which moved prices are noticed.
    """
    report = Report()
    texts = _read(directory, report)
    sources = _parse(texts, report)
    world = World(environ=environ, today=today, local=local or {}, local_ports=local_ports)
    providers = _providers(sources, report)
    world = dataclasses.replace(
        world,
        providers=providers,
        provider_names=frozenset(_stem(file) for file in texts if file.startswith("providers/")),
    )
    models = _models(sources, world, report)
    model_ids = {_model_id(file) for file in texts if file.startswith("models/")}
    policy = build_policy(sources.get("policy.toml", Source("policy.toml", "")), model_ids, report)
    _warn_keys(sources, world, models, report)
    if not report.faults:
        _warn_unserved(models, report)
    if running is not None:
        _warn_moved_prices(sources, models, running, report)
    if report.faults:
        return None, _in_order(report.faults), _in_order(report.warnings)
    for found in discovered_models(providers.values(), models, world.local):
        models[found.id] = found
    warnings = _in_order(report.warnings)
    snapshot = Snapshot(
        revision=_revision(texts),
        models=models,
        providers=providers,
        policy=policy,
        files=len(texts),
        warnings=tuple(str(warning) for warning in warnings),
    )
    return snapshot, [], warnings


def read_providers(directory: Path) -> dict[str, Provider]:
    """Return the providers whose files are sound, to know which local servers to ask before a load."""
    report = Report()
    texts = {file: raw for file, raw in _read(directory, report).items() if file.startswith("providers/")}
    return _providers(_parse(texts, report), report)


def catalog_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name below the directory, path) of every file that is not an editor's or a note, sorted.

    Links are followed, as a mounted Kubernetes ConfigMap needs; the depth is bounded.
    """
    found: list[tuple[str, Path]] = []
    for root, folders, files in os.walk(directory, followlinks=True):
        below = Path(root).relative_to(directory)
        deep = len(below.parts) >= _MAX_DEPTH
        folders[:] = [] if deep else [name for name in folders if not _IGNORED.fullmatch(name)]
        names = [name for name in files if not _IGNORED.fullmatch(name)]
        found.extend(((below / name).as_posix(), Path(root) / name) for name in names)
    yield from sorted(found)


def _read(directory: Path, report: Report) -> dict[str, bytes]:
    """Read the catalog's files; a file at a place where nothing reads it is a fault."""
    if not directory.is_dir():
        report.faults.append(Fault(str(directory), 1, "", "no such directory; name it with --catalog DIR"))
        return {}
    texts: dict[str, bytes] = {}
    for file, path in catalog_files(directory):
        if (wrong := _misplaced(file)) is not None:
            notes = report.faults if file.endswith(".toml") else report.warnings
            notes.append(Fault(file, 1, "", wrong))
            continue
        try:
            texts[file] = path.read_bytes()
        except OSError as error:
            report.faults.append(Fault(file, 1, "", f"cannot be read: {error.strerror}"))
    if not texts and not report.faults:
        said = "no catalog here: expected policy.toml, providers/*.toml and models/**/*.toml"
        report.faults.append(Fault(str(directory), 1, "", said))
    return texts


def _misplaced(file: str) -> str | None:
    path = PurePosixPath(file)
    if path.suffix != ".toml":
        return "not read: a catalog consists of .toml files"
    if file == "policy.toml":
        return None
    folder = path.parts[0]
    if folder == "providers" and len(path.parts) == 2:
        fits = re.fullmatch(r"[a-z0-9][a-z0-9._-]*", path.stem)
        return None if fits else "a provider's file name has only a-z, 0-9 and . _ -"
    if folder == "models" and len(path.parts) > 1:
        fits = _ID.fullmatch(_model_id(file))
        return None if fits else "the id (the path below models/) has only a-z, 0-9 and . _ : / -"
    hint = did_you_mean(file if len(path.parts) == 1 else folder, ["policy.toml", "providers", "models"])
    return f"nothing reads this file{hint}"


def _parse(texts: Mapping[str, bytes], report: Report) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for file, raw in texts.items():
        try:
            text = raw.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            report.faults.append(Fault(file, line, "", "not UTF-8; save the file as UTF-8"))
            continue
        try:
            sources[file] = Source(file, text, tomllib.loads(text, parse_float=Decimal))
        except tomllib.TOMLDecodeError as error:
            report.faults.append(syntax_fault(file, text, error))
    return sources


def _revision(texts: Mapping[str, bytes]) -> str:
    """Hash names and contents, each with its length, so that no two catalogs read alike."""
    digest = hashlib.sha256()
    for file, raw in sorted(texts.items()):
        for part in (file.encode(), raw):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()[:12]


def _providers(sources: Mapping[str, Source], report: Report) -> dict[str, Provider]:
    providers: dict[str, Provider] = {}
    for file, source in sources.items():
        if not file.startswith("providers/"):
            continue
        table = report.parse(ProviderFile, source, source.data)
        if table is not None:
            name = _stem(file)
            providers[name] = build_provider(name, table, source, report)
    return providers


def _models(sources: Mapping[str, Source], world: World, report: Report) -> dict[str, Model]:
    models: dict[str, Model] = {}
    for file, source in sources.items():
        if file.startswith("models/"):
            model = build_model(_model_id(file), source, world, report)
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


def _warn_unserved(models: Mapping[str, Model], report: Report) -> None:
    """Warn of a category that no rated model with an offer serves, whatever keys are set here."""
    for category in CATEGORIES:
        if not any(_could_serve(model, category) for model in models.values()):
            said = f"no model with an offer has a quality for {category}; auto cannot serve it"
            report.warnings.append(Fault("models", 1, f"quality.{category}", said))


def _could_serve(model: Model, category: Category) -> bool:
    off = ("disabled", "retired")
    return category in model.quality and any(
        offer.unusable is None or not offer.unusable.startswith(off) for offer in model.offers
    )


def _warn_moved_prices(
    sources: Mapping[str, Source], models: Mapping[str, Model], running: Snapshot, report: Report
) -> None:
    """Warn of a price that moved more than fivefold: usually a price per token or per thousand."""
    before = {(offer.model, *offer.key): offer.price for offer in _offers(running.models.values())}
    for offer in _offers(models.values()):
        old = before.get((offer.model, *offer.key))
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


def _model_id(file: str) -> str:
    return file.removeprefix("models/").removesuffix(".toml")


def _stem(file: str) -> str:
    return PurePosixPath(file).stem


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file, fault.line, fault.path))
