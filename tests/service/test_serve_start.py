"""How `router serve` begins as a process: an address it cannot take has its fix, JSON means every line."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import Serving, bare_environment, run_router, serve

OWN = "set --host or ROUTER_HOST: 127.0.0.1 is for programs on this machine, 0.0.0.0 for others too"
OTHER = "with --port or ROUTER_PORT"
UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
WITHOUT_RIGHT = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (
            "999.9.9.9",
            "cannot listen on 999.9.9.9:8402: that is no address, and no name that this machine can",
        ),
        (
            "no-such-name.invalid",
            "cannot listen on no-such-name.invalid:8402: that is no address, and no name",
        ),
        ("192.0.2.1", "cannot listen on 192.0.2.1:8402: this machine has no such address"),
        ("é" * 70, "that is no address, and no name that this machine can look up"),
        ("2001:db8::1", "cannot listen on [2001:db8::1]:8402: this machine has no"),
    ],
)
def test_an_address_that_cannot_be_ours_names_one_that_can(tmp_path: Path, host: str, said: str) -> None:
    done = run_router(tmp_path, "serve", "--host", host, "--port", "8402")
    assert done.returncode == 1
    assert said in done.stderr
    assert OWN in done.stderr
    assert "--port" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("host", ["127.0.0.1:8402", "http://127.0.0.1", "  ", "[::1]:8402"])
def test_what_is_no_host_is_a_wrong_setting(tmp_path: Path, host: str) -> None:
    done = run_router(tmp_path, "serve", ROUTER_HOST=host)
    assert done.returncode == 1
    assert "ROUTER_HOST" in done.stderr
    assert ("ROUTER_PORT" in done.stderr) == bool(host.strip())


def test_a_taken_port_names_the_setting_of_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_router(tmp_path, "serve", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: something listens there already" in done.stderr
    assert OTHER in done.stderr
    assert OWN not in done.stderr


def test_a_port_of_root_names_what_it_takes(tmp_path: Path) -> None:
    if not UNPRIVILEGED.exists() or int(UNPRIVILEGED.read_text()) < 1024:
        pytest.skip("every user may take every port here")
    command = [sys.executable, "-m", "router", "serve", "--port", "81"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv here to give root's right away (Debian: util-linux)")
        command = [*WITHOUT_RIGHT, *command]
    done = subprocess.run(
        command, cwd=tmp_path, env=bare_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1:81: ports below 1024 are for root" in done.stderr
    assert OTHER in done.stderr
    assert "CAP_NET_BIND_SERVICE" in done.stderr


def test_brackets_around_an_ipv6_address_are_taken(tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with serve(tmp_path, "--demo", ROUTER_HOST="[::1]") as serving:
        serving.read_until("router.app: ready")
        assert f"on http://[::1]:{serving.port}\n" in serving.text
        assert "open: no API key is asked for" in serving.text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_a_json_log_every_line_is_json_from_the_first_to_the_last(tmp_path: Path, workers: str) -> None:
    with serve(tmp_path, "--demo", "--workers", workers, ROUTER_LOG="json") as serving:
        serving.read_until('"ready"' if workers == "1" else "2 workers are ready")
        ask(serving)
        serving.read_until("router.request")
        serving.terminate()
        assert serving.wait() == 0
    lines = [json.loads(line) for line in serving.text.splitlines()]
    assert all({"at", "level", "logger"} <= line.keys() for line in lines)
    first, origin = lines[0], f"http://127.0.0.1:{serving.port}"
    assert first["message"].endswith(f"on {origin}")
    assert "revision" in first["catalog"]
    assert first["demo"].startswith("the built-in demo provider answers (asked for by --demo); for real ")
    assert first["access"] == "open: no API key is asked for"
    assert shlex.split(first["curl"])[:2] == ["curl", f"{origin}/v1/chat/completions"]
    assert first["openai"] == f'client = OpenAI(base_url="{origin}/v1", api_key="unused")'
    block = json.loads(f"{{{first['openclaw']}}}")["models"]["providers"]["router"]
    assert block["baseUrl"] == f"{origin}/v1"


def ask(serving: Serving) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}),
        {"content-type": "application/json"},
    )
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"ROUTER_HOST": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
        ({"ROUTER_DATABASE_URL": "postgresql://me@127.0.0.1:1/x"}, "database"),
    ],
)
def test_with_a_json_log_what_keeps_it_from_starting_is_json_too(
    tmp_path: Path, workers: str, setting: dict[str, str], said: str
) -> None:
    port = ("--port", "0", "--workers", workers)
    done = run_router(tmp_path, "serve", *port, ROUTER_LOG="json", **setting)
    assert done.returncode == 1
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    assert said in lines[-1]["message"]
    assert lines[-1]["level"] == "error"
