"""The first minute: `router serve` as a real process that finds no key, no file and no network."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.router import Offered, write_catalog
from tests.serving import Serving, bare_environment, run_router, serve

READY = "router.app: ready"
DEMO = "built-in demo"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, nobody_local: None) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("empty")) as serving:
        serving.read_until(READY)
        yield serving


def line_after(serving: Serving, title: str) -> str:
    lines = serving.text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(title))
    return lines[at + 1].strip()


@contextmanager
def post(port: int, path: str, body: Any, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with closing(connection):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
        with connection.getresponse() as answer:
            yield answer


def chat_body(prompt: str = "Say hello", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": prompt}], **fields}


def test_what_is_printed_before_it_is_ready(demo: Serving) -> None:
    text = demo.text
    assert text.splitlines()[0].endswith(f"on http://127.0.0.1:{demo.port}")
    assert "models" in text
    assert "revision" in text
    assert f"{DEMO} provider answers" in text
    assert "_API_KEY" in text
    assert "open: no API key is asked for" in text
    for title in ("curl:", "OpenAI SDK:", "OpenClaw, in openclaw.json"):
        assert text.index(title) < text.index(READY)


def test_the_printed_curl_works_in_a_shell(demo: Serving, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    done = subprocess.run(
        ["sh", "-c", line_after(demo, "curl:")],
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert DEMO in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"] > 0


def test_the_printed_openclaw_block_is_json_for_this_address(demo: Serving) -> None:
    block = json.loads("{" + line_after(demo, "OpenClaw") + "}")
    provider = block["models"]["providers"]["router"]
    assert provider["baseUrl"] == f"http://127.0.0.1:{demo.port}/v1"
    assert provider["api"] == "openai-completions"
    assert [model["id"] for model in provider["models"]] == ["auto"]
    assert provider["models"][0]["compat"] == {"supportsUsageInStreaming": True}


def test_the_printed_sdk_line_streams_an_answer(demo: Serving) -> None:
    names: dict[str, Any] = {"OpenAI": OpenAI}
    exec(line_after(demo, "OpenAI SDK:"), names)
    with names["client"] as client:
        chunks = client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "Write a Python function that reverses a list"}],
            stream=True,
        )
        seen = list(chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in seen)
    assert "built-in demo (demo/coder)" in text
    assert len(seen) > 5
    assert seen[-1].usage is not None
    assert seen[-1].usage.completion_tokens > 0


def test_sigterm_lets_a_running_stream_end_whole_and_exits_0(tmp_path: Path, nobody_local: None) -> None:
    with serve(tmp_path) as serving:
        serving.read_until(READY)
        with post(serving.port, "/v1/chat/completions", chat_body("words " * 60, stream=True)) as got:
            first = got.readline()
            serving.terminate()
            whole = (first + got.read()).decode()
        assert serving.wait() == 0
    assert "data: [DONE]" in whole
    chunks = [json.loads(x[6:]) for x in whole.splitlines() if x.startswith("data: {")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] > 60
    assert "Traceback" not in serving.text


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_router(tmp_path, "serve", "--port", str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_a_broken_catalog_names_every_fault_with_file_and_line(tmp_path: Path) -> None:
    models = [Offered("vendor/good"), Offered("vendor/bad", extra="colour = 1"), Offered("vendor/worse")]
    catalog = write_catalog(tmp_path / "catalog", {"scripted": "http://127.0.0.1:9/v1"}, models)
    worse = catalog / "models" / "vendor" / "worse.toml"
    worse.write_text(worse.read_text().replace("context = 100000", "context = -1"))
    done = run_router(tmp_path, "serve", "--port", "0", "--catalog", "catalog")
    assert done.returncode == 1
    assert "2 faults" in done.stderr
    lines = (catalog / "models" / "vendor" / "bad.toml").read_text().splitlines()
    assert f"catalog/models/vendor/bad.toml:{lines.index('colour = 1') + 1}: " in done.stderr
    assert "catalog/models/vendor/worse.toml:2: context: " in done.stderr


def test_a_public_address_asks_for_a_key_and_never_serves_the_demo(tmp_path: Path) -> None:
    made = run_router(tmp_path, "keys", "create", "--name", "me", "--credit", "5", "--json", "--data", "data")
    key = json.loads(made.stdout)["key"]
    with serve(tmp_path, ROUTER_HOST="0.0.0.0") as serving:
        serving.read_until(READY)
        with post(serving.port, "/v1/chat/completions", chat_body()) as refused:
            assert refused.status == 401
        with OpenAI(base_url=f"http://127.0.0.1:{serving.port}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as nobody:
                client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(
                    model="demo/small", messages=[{"role": "user", "content": "hi"}]
                )
    assert "API_KEY" in nobody.value.message
    assert "an API key with credit is asked for" in serving.text
    assert "Authorization: Bearer YOUR_KEY" in line_after(serving, "curl:")
    assert DEMO not in serving.text


def test_open_access_on_a_public_address_must_be_insisted_on(tmp_path: Path) -> None:
    public = {"ROUTER_HOST": "0.0.0.0", "ROUTER_ACCESS": "open"}
    refused = run_router(tmp_path, "serve", "--port", "0", **public)
    assert refused.returncode == 1
    assert "--insecure-open" in refused.stderr
    assert not (tmp_path / ".router").exists()
    with serve(tmp_path, "--insecure-open", **public) as serving:
        serving.read_until(READY)
        with post(serving.port, "/v1/route", chat_body()) as got:
            assert got.status == 200


def test_flags_win_over_the_environment_and_that_over_router_toml(tmp_path: Path) -> None:
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        named, file, environment, flag = (str(s.getsockname()[1]) for s in sockets)
        (tmp_path / "router.toml").write_text(f"port = {file}\n")
        (tmp_path / "other.toml").write_text(f"port = {named}\n")
        refused = [
            run_router(tmp_path, "serve"),
            run_router(tmp_path, "serve", "--config", "other.toml"),
            run_router(tmp_path, "serve", ROUTER_PORT=environment),
            run_router(tmp_path, "serve", "--port", flag, ROUTER_PORT=environment),
        ]
    for done, port in zip(refused, (file, named, environment, flag), strict=True):
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_settings_of_the_environment_reach_the_service(tmp_path: Path, nobody_local: None) -> None:
    environ = {"ROUTER_LOG": "json", "ROUTER_ERROR_CODE": "name", "ROUTER_CORS_ORIGINS": "https://a.example"}
    with serve(tmp_path, **environ) as serving:
        assert json.loads(serving.read_until('"ready"'))["message"] == "ready"
        with post(
            serving.port, "/v1/chat/completions", chat_body(model="no/such"), origin="https://a.example"
        ) as got:
            assert json.load(got)["error"]["code"] == "model_not_found"
            assert got.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1\n", "router.toml:1: colour: no such setting"),
        ('log = "json"\nport = 70000\n', "router.toml:2: port (ROUTER_PORT): "),
        ("port = \n", "router.toml: "),
        ('acces = "paid"\n', "router.toml:1: acces: no such setting; did you mean access?"),
        ('access = "free"\n', "router.toml:1: access (ROUTER_ACCESS): "),
    ],
)
def test_a_wrong_line_of_router_toml_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "router.toml").write_text(text)
    done = run_router(tmp_path, "serve")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_mistyped_variable_is_said_at_the_start(tmp_path: Path, workers: str) -> None:
    with serve(tmp_path, "--demo", "--workers", workers, ROUTER_ACESS="paid") as serving:
        serving.read_until("ROUTER_ACESS is no setting and does nothing: did you mean ROUTER_ACCESS?")
        serving.read_until(READY)
    assert serving.text.count("ROUTER_ACESS") == 1


def test_where_a_wrong_value_came_from_is_said(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_text('host = "0.0.0.0"\naccess = "paid"\n')
    by_variable = run_router(tmp_path, "serve", ROUTER_GRACE_S="long").stderr
    assert by_variable.startswith("Error: environment: grace_s (ROUTER_GRACE_S): ")
    by_flag = run_router(tmp_path, "serve", "--access", "open").stderr
    assert by_flag.startswith("Error: access is open and the address 0.0.0.0 is public")


def test_a_database_that_is_away_ends_the_start_with_the_fix(tmp_path: Path) -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/books"
    ended = run_router(tmp_path, "serve", "--demo", "--port", "0", ROUTER_DATABASE_URL=url)
    assert ended.returncode == 1
    assert "cannot use the PostgreSQL database me@127.0.0.1:1/books" in ended.stderr
    assert "ROUTER_DATABASE_URL" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
