"""What is measured beside our router, each set to do as little as it can: the upstream and four peers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import installs, processes
from benchmarks.ours import OURS
from benchmarks.site import Endpoint, Site, Target

TENSORZERO_VERSION = "2026.6.0"
LITELLM_VERSION = "1.106.2"
LLMROUTER_VERSION = "0.1.9"
# It pins a version of its payment library that the registry does not give out; no payment code runs here.
LLMROUTER_OVERRIDES = {"mppx": "0.5.12"}
LITELLM_KEY = "sk-bench"

NGINX_CONF = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_buffer_size 4m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream bench {{
    server 127.0.0.1:{upstream};
    keepalive 256;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection '';
      proxy_buffering off;
    }}
  }}
}}
"""
TENSORZERO_TOML = """\
[gateway]
observability.enabled = false

[models.bench]
routing = ["mock"]

[models.bench.providers.mock]
type = "openai"
model_name = "bench"
api_base = "http://127.0.0.1:{upstream}/v1/"
api_key_location = "none"
"""
TENSORZERO_SERVE = """\
import signal, sys
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print("listening on", gateway.base_url, flush=True)
signal.pause()
"""
LITELLM_YAML = """\
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: none
general_settings:
  master_key: {key}
"""
LITELLM_ENVIRON = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_DOCS": "True",
}


@contextmanager
def start_direct(_site: Site, upstream_port: int) -> Iterator[Endpoint]:
    """Measure the upstream itself."""
    yield Endpoint(upstream_port, model="bench")


def prepare_nginx(_site: Site) -> str:
    """Return the version of the distribution's nginx."""
    program = installs.debian_peer("nginx", "nginx-light")
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("/")[2]


@contextmanager
def start_nginx(site: Site, upstream_port: int) -> Iterator[Endpoint]:
    """Run one worker that passes everything on, unbuffered and over kept connections."""
    folder, port = site.folder("nginx"), processes.free_port()
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, upstream=upstream_port, port=port))
    command = [installs.debian_peer("nginx", "nginx-light"), "-p", str(folder), "-c", str(conf)]
    with site.gateway(command, folder / "log", port=port, ready="/v1/models") as (port, pid, start_s):
        yield Endpoint(port, pid, model="bench", start_s=start_s)


def prepare_tensorzero(site: Site) -> str:
    """Install the wheel that holds the Rust gateway."""
    installs.python_peer(site.peers, "tensorzero", TENSORZERO_VERSION)
    return TENSORZERO_VERSION


@contextmanager
def start_tensorzero(site: Site, upstream_port: int) -> Iterator[Endpoint]:
    """Run the gateway of the wheel without a database and with one worker thread."""
    folder = site.folder("tensorzero")
    config = folder / "tensorzero.toml"
    config.write_text(TENSORZERO_TOML.format(upstream=upstream_port))
    python = installs.python_peer(site.peers, "tensorzero", TENSORZERO_VERSION)
    command = [str(python), "-c", TENSORZERO_SERVE, str(config)]
    environ = {"TOKIO_WORKER_THREADS": "1"}
    with site.gateway(command, folder / "log", port=None, ready=None, environ=environ) as running:
        port, pid, start_s = running
        model = "tensorzero::model_name::bench"
        yield Endpoint(port, pid, "/openai/v1/chat/completions", model, start_s=start_s)


def prepare_litellm(site: Site) -> str:
    """Install the proxy."""
    installs.python_peer(site.peers, "litellm[proxy]", LITELLM_VERSION)
    return LITELLM_VERSION


@contextmanager
def start_litellm(site: Site, upstream_port: int) -> Iterator[Endpoint]:
    """Run one worker in production mode, with a master key and without a database."""
    folder, port = site.folder("litellm"), processes.free_port()
    config = folder / "litellm.yaml"
    config.write_text(LITELLM_YAML.format(upstream=upstream_port, key=LITELLM_KEY))
    program = installs.python_peer(site.peers, "litellm[proxy]", LITELLM_VERSION).with_name("litellm")
    where = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command = [str(program), *where, "--num_workers", "1", "--telemetry", "False"]
    with site.gateway(
        command, folder / "log", port=port, ready="/health/liveliness", environ=LITELLM_ENVIRON, timeout_s=180
    ) as (port, pid, start_s):
        key = f"Bearer {LITELLM_KEY}"
        yield Endpoint(port, pid, model="bench", authorization=key, start_s=start_s)


def prepare_llmrouter(site: Site) -> str:
    """Install the package from npm."""
    node = installs.debian_peer("node", "nodejs")
    installs.node_peer(site.peers, "@rungate/llmrouter", LLMROUTER_VERSION, LLMROUTER_OVERRIDES)
    done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    return f"{LLMROUTER_VERSION} on Node {done.stdout.strip().removeprefix('v')}"


@contextmanager
def start_llmrouter(site: Site, upstream_port: int) -> Iterator[Endpoint]:
    """Run its proxy; it classifies and rewrites the model, and checks no key."""
    folder, port = site.folder("llmrouter"), processes.free_port()
    package = installs.node_peer(site.peers, "@rungate/llmrouter", LLMROUTER_VERSION, LLMROUTER_OVERRIDES)
    command = [installs.debian_peer("node", "nodejs"), str(package / "dist" / "scripts" / "proxy.js")]
    environ = {
        "LLM_ROUTER_PORT": str(port),
        "INFERENCE_PROVIDER_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "NODE_ENV": "production",
    }
    with site.gateway(command, folder / "log", port=port, ready="/healthz", environ=environ) as running:
        port, pid, start_s = running
        yield Endpoint(port, pid, model="llmrouter/auto", start_s=start_s)


DIRECT = Target("direct", "the upstream itself: the floor and the ceiling", lambda _site: "-", start_direct)
TARGETS = (
    DIRECT,
    Target("nginx", "passes bytes on; no key, no model, no price", prepare_nginx, start_nginx),
    Target(
        "TensorZero",
        "Rust gateway; rewrites to its own types; no key, database or metrics store; a delayed ACK at the "
        "first token",
        prepare_tensorzero,
        start_tensorzero,
    ),
    Target("LiteLLM", "Python proxy; master key, no database", prepare_litellm, start_litellm),
    Target(
        "@rungate/llmrouter",
        "Node; classifies by rules, rewrites the model; no key, no accounting",
        prepare_llmrouter,
        start_llmrouter,
    ),
    OURS,
)
