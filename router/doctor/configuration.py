"""The settings: whether they can be read, whether they are safe together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from router.address import place
from router.doctor.finding import Finding, failure, note, ok, warning
from router.settings import (
    DEFAULT_CONFIG,
    ENV_PREFIX,
    Settings,
    SettingsError,
    load_settings,
    unknown_variables,
)

LEAST_ADMIN_KEY = 16
_NAMED = re.compile(r"([a-zA-Z][a-zA-Z0-9_]*)[ .(:]")


def read(
    config: Path | None, environ: Mapping[str, str], data: Path | None = None, catalog: Path | None = None
) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, None where they cannot be used, and what was found of them."""
    file = config or DEFAULT_CONFIG
    try:
        settings = load_settings(config, data=data, catalog=catalog)
    except SettingsError as fault:
        lines = zip(str(fault).splitlines(), placed(fault, config, environ), strict=True)
        return None, [failure("settings", said, _fix(line, file)) for line, said in lines]
    given = sorted(name for name in environ if name.startswith(ENV_PREFIX) and _is_setting(name))
    said = [str(file)] if file.is_file() else []
    said += [f"{len(given)} in the environment"] if given else []
    return settings, [ok("settings", ", ".join(said) or "all are at their defaults"), *_unknown(environ)]


def _is_setting(name: str) -> bool:
    return name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def _unknown(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Find variables that look like settings and are none: pydantic passes over them without a word."""
    for name, fix in unknown_variables(environ).items():
        yield warning("settings", f"{name} is no setting and does nothing", fix)


def placed(
    fault: SettingsError, config: Path | None, environ: Mapping[str, str], flags: Iterable[str] = ()
) -> list[str]:
    """Return the lines of a fault, each with the file and line, or the environment, that it comes from.

    `flags` are the settings that the command line gave, which are where nothing else says so.
    """
    file = config or DEFAULT_CONFIG
    return [_where(line, file, environ, flags) + line for line in str(fault).splitlines()]


def _where(line: str, file: Path, environ: Mapping[str, str], flags: Iterable[str]) -> str:
    """Return `file:line: ` of the setting that a line names, or where else its value comes from."""
    match = _NAMED.match(line)
    if match is None or match[1] in flags:
        return ""
    if ENV_PREFIX + match[1].upper() in environ:
        return "environment: "
    try:
        rows = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    named = re.compile(rf"\s*\[?{match[1]}\b")
    return next((f"{file}:{n}: " for n, row in enumerate(rows, 1) if named.match(row)), "")


def _fix(line: str, file: Path) -> str:
    match = _NAMED.match(line)
    if match is None or "does not exist" in line:
        return "name a file that is there with --config"
    if line.startswith(f"{file}:"):
        return f"correct the TOML of {file}"
    return f"correct {match[1]}; `router serve --help` and docs/operations.md list the settings"


def kept_words(settings: Settings) -> Iterator[Finding]:
    """Say that prompts are kept, where they are: nobody should learn it by chance."""
    if not settings.keep_prompts:
        return
    if settings.history_requests:
        yield warning(
            "privacy",
            "prompts and answers are kept in the history, for the page Requests",
            "tell those who use the router; unset ROUTER_KEEP_PROMPTS to keep no more of them",
        )
    else:
        yield warning(
            "privacy",
            "ROUTER_KEEP_PROMPTS keeps nothing, since ROUTER_HISTORY_REQUESTS is 0",
            "set ROUTER_HISTORY_REQUESTS, or unset ROUTER_KEEP_PROMPTS",
        )


def access(settings: Settings) -> Iterator[Finding]:
    """Check who may spend the operator's money."""
    where = place(settings.host, settings.port)
    if settings.asks_for_key:
        yield ok("access", f"paid on {where}: an API key with credit is asked for")
    elif settings.loopback:
        yield ok("access", f"open on {where}, which only this machine reaches")
    else:
        yield warning(
            "access",
            f"open on {where}: whoever reaches it spends your money",
            "set ROUTER_ACCESS=paid and make keys with `router keys create`, or listen on 127.0.0.1",
        )
    if not settings.loopback:
        yield note(
            "access", f"{where} is plain HTTP", "put TLS before it: deploy/Caddyfile, deploy/nginx.conf"
        )
    if "*" in settings.cors_origins and not settings.asks_for_key:
        yield warning(
            "access",
            "any web page in a browser here may call the router: cors_origins is * and no key is asked",
            "name the origins in ROUTER_CORS_ORIGINS, or set ROUTER_ACCESS=paid",
        )
    key = settings.admin_key.get_secret_value() if settings.admin_key is not None else None
    if key is not None and len(key) < LEAST_ADMIN_KEY:
        yield warning(
            "access",
            f"ROUTER_ADMIN_KEY has {len(key)} characters",
            "make one with `openssl rand -hex 24`: who guesses it makes keys",
        )
    if settings.database_url is not None and settings.shared_url is None and settings.workers == 1:
        yield note(
            "access",
            "the accounts are in PostgreSQL, limits are this machine's own",
            "set ROUTER_SHARED_URL where several replicas share the accounts",
        )


def private(path: Path, check: str, *, secret: bool) -> Iterator[Finding]:
    """Check that nobody else on the machine can read (or, at least, write) what is there."""
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        return
    wrong = mode & (0o077 if secret else 0o022)
    if wrong:
        wanted = "700" if path.is_dir() else "600" if secret else "644"
        finding = failure if mode & 0o002 else warning
        who = "others can write" if mode & 0o022 else "others can read"
        yield finding(check, f"{path} has mode {mode:03o}: {who} it", f"chmod {wanted} {path}")


def permissions(settings: Settings, config: Path | None) -> list[Finding]:
    """Check the modes of the data folder, of what is secret in it, and of the settings file."""
    file = config or DEFAULT_CONFIG
    data = settings.data
    secrets = [*data.glob("router.db*"), *data.glob("*.key")] if data.is_dir() else []
    found = [*private(data, "permissions", secret=True)]
    for path in sorted(secrets):
        found += private(path, "permissions", secret=True)
    found += private(file, "permissions", secret=_has_secret(file))
    if data.is_dir() and data.stat().st_uid != os.geteuid() and os.geteuid() != 0:
        found.append(
            failure("permissions", f"{data} belongs to another user", f"chown {os.geteuid()} {data}")
        )
    if found:
        return found
    return [
        ok("permissions", f"{data} is private" if data.is_dir() else "no data folder yet; `serve` makes it")
    ]


def _has_secret(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(r"^\s*\w*(?:_key|_url|_secret|_headers|_rpc)\s*=", text, re.MULTILINE) is not None
