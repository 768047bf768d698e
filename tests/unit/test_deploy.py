"""What deploy/ names is there: settings, files, services, and versions that the project supports."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.cli.server import server_of
from router.settings import Settings

HERE = Path(__file__).parents[2]
DEPLOY = HERE / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
NGINX = (DEPLOY / "nginx.conf").read_text()
EXAMPLE = (DEPLOY / ".env.example").read_text()
VARIABLE = re.compile(r"\$\{(\w+)(?::[-?][^}]*)?\}")
FILLED_IN = {"POSTGRES_PASSWORD": "secret1", "REDIS_PASSWORD": "secret2", "ROUTER_ADMIN_KEY": "secret3"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def example() -> dict[str, str]:
    """Return the variables of .env.example, those in comments too."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))


def filled(value: object) -> str:
    """Return a value of the compose file as it is with `.env.example` filled in."""
    given = example() | FILLED_IN
    return VARIABLE.sub(lambda found: given[found[1]], str(value))


def directive(name: str) -> str:
    found = re.findall(rf"^\s*{name}\s+([^;]+);", NGINX, re.MULTILINE)
    assert len(found) == 1, f"{name}: {found}"
    return str(found[0])


def image_environment() -> dict[str, str]:
    (line,) = re.findall(r"^ENV (.+)$", CONTAINERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def routers(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in compose["services"].items() if name.startswith("router-")}


def test_every_router_variable_is_a_setting_and_its_value_is_valid(compose: dict[str, Any]) -> None:
    assert len(routers(compose)) == 2
    for service in routers(compose).values():
        environ = image_environment() | {n: filled(v) for n, v in service["environment"].items()}
        given = {n.removeprefix("ROUTER_").lower(): v for n, v in environ.items() if n.startswith("ROUTER_")}
        settings = Settings(**given)  # an unknown name or a wrong value is an error
        assert settings.asks_for_key
        assert settings.storage_url == "postgresql://router:secret1@postgres:5432/router"
        assert settings.redis_url == "redis://:secret2@redis:6379/0"
        assert int(service["stop_grace_period"].removesuffix("s")) > settings.grace_s


def test_the_variables_of_the_compose_file_are_those_of_the_example(compose: dict[str, Any]) -> None:
    named = set(VARIABLE.findall((DEPLOY / "compose.yaml").read_text()))
    keys = {
        tomllib.loads(file.read_text()).get("key_env")
        for file in (HERE / "models_catalog" / "providers").glob("*.toml")
    }
    assert named <= set(example())
    assert set(example()) - named <= keys, "neither of the compose file nor a provider's key"
    assert all(name in Settings.model_fields for name in _ours(example()))
    assert not any(example()[name] for name in FILLED_IN), "an example holds no secret"
    assert "deploy/.env" in (HERE / ".gitignore").read_text().split()
    assert compose["services"]["router-1"]["env_file"] == [".env"]


def _ours(environ: dict[str, str]) -> list[str]:
    return [name.removeprefix("ROUTER_").lower() for name in environ if name.startswith("ROUTER_")]


def test_each_replica_has_a_data_folder_of_its_own(compose: dict[str, Any]) -> None:
    mounted = [volume.split(":") for s in routers(compose).values() for volume in s["volumes"]]
    data = [name for name, where, *_ in mounted if where == image_environment()["ROUTER_DATA"]]
    assert len(set(data)) == len(data) == 2
    assert set(data) <= set(compose["volumes"])
    bound = {source for source, *_ in mounted if source.startswith(".")}
    assert all((DEPLOY / source).exists() for source in bound)


def test_what_faces_the_network_runs_without_rights(compose: dict[str, Any]) -> None:
    for name in ("router-1", "router-2", "nginx"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    published = {name for name, service in compose["services"].items() if "ports" in service}
    assert published == {"nginx"}
    assert compose["networks"]["back"]["internal"] is True


def test_the_connections_of_the_replicas_fit_the_database(compose: dict[str, Any]) -> None:
    (limit,) = (int(x.split("=")[1]) for x in compose["services"]["postgres"]["command"] if "max_conn" in x)
    workers = int(example()["ROUTER_WORKERS"])
    assert len(routers(compose)) * workers * 5 + 3 + 10 <= limit  # superuser's, and commands


def test_nginx_sends_to_the_replicas_and_to_nobody_else(compose: dict[str, Any]) -> None:
    port = image_environment()["ROUTER_PORT"]
    servers = re.findall(r"^\s*server (\S+):(\d+)", NGINX, re.MULTILINE)
    assert servers == [(name, port) for name in routers(compose)]
    (listened,) = re.findall(r"^\s*listen (\d+)", NGINX, re.MULTILINE)
    assert compose["services"]["nginx"]["ports"][0].endswith(f":{listened}")


def seconds(name: str) -> list[int]:
    return [int(found) for found in re.findall(rf"^\s*{name} (\d+)s;", NGINX, re.MULTILINE)]


def test_nginx_waits_longer_than_the_router_and_keeps_connections_shorter() -> None:
    settings = Settings()
    (upstream_idle_s, _client_idle_s) = seconds("keepalive_timeout")
    source = Path(server_of.__code__.co_filename).read_text()
    (router_idle_s,) = (int(x) for x in re.findall(r"timeout_keep_alive=(\d+)", source))
    assert upstream_idle_s < router_idle_s
    assert seconds("proxy_read_timeout")[0] > settings.deadline_s
    assert int(directive("client_max_body_size").removesuffix("m")) > settings.max_body_mib


def test_nginx_streams_and_never_sends_a_request_twice() -> None:
    assert directive("proxy_buffering").startswith("off")
    assert directive("proxy_http_version") == "1.1"
    assert directive("proxy_next_upstream") == "error timeout"
    directives = re.sub(r"#.*", "", NGINX)
    assert "non_idempotent" not in directives
    assert "proxy_ignore_headers" not in directives


def test_the_image_is_built_from_hashes_and_runs_without_rights() -> None:
    bases = re.findall(r"^FROM \S+/python:(\d+)\.(\d+)-slim", CONTAINERFILE, re.MULTILINE)
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    least = tuple(int(part) for part in project["requires-python"].removeprefix(">=").split("."))
    assert len(set(bases)) == 1
    assert tuple(int(part) for part in bases[0]) >= least
    for line in re.findall(r"^.*/bin/pip install .*$", CONTAINERFILE, re.MULTILINE):
        assert "--require-hashes" in line or "--no-deps /wheels/" in line
    assert "--no-build-isolation" in CONTAINERFILE
    built = (HERE / "requirements.build.lock").read_text()
    assert re.search(r"^hatchling==.*\n +--hash=sha256:", built, re.MULTILINE)
    (user,) = re.findall(r"^USER (\d+):", CONTAINERFILE, re.MULTILINE)
    assert int(user) > 0
    assert re.findall(r"^VOLUME (.+)$", CONTAINERFILE, re.MULTILINE) == [image_environment()["ROUTER_DATA"]]


def test_the_commands_of_the_compose_file_are_found_in_the_image() -> None:
    (program,) = re.findall(r'^ENTRYPOINT \["(.+)/router"\]$', CONTAINERFILE, re.MULTILINE)
    assert image_environment()["PATH"].split(":")[0] == program
    header = (DEPLOY / "compose.yaml").read_text().split("name:", maxsplit=1)[0]
    assert re.findall(r"exec (\S+) (\S+)", header) == [("router-1", "router")]


def test_the_image_gets_what_it_is_built_from_and_nothing_else() -> None:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert all((HERE / name).exists() for name in copied)
    sent = (DEPLOY / "Containerfile.dockerignore").read_text().split()
    assert sent[0] == "*"
    assert {line.removeprefix("!") for line in sent if line.startswith("!")} == copied
