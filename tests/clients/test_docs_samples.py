"""The samples of docs/clients.md that need packages of others, each as printed, then asked once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import packages
from tests.serving import Serving, serve

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
ORIGIN = "http://127.0.0.1:8402"
PYTHON = {  # the script whose head names the package, and the question
    "langchain": ("use_langchain.py", "said = model.invoke('Say hello').content"),
    "litellm": ("use_litellm.py", "said = answer.choices[0].message.content"),
    "pydantic_ai": ("use_pydantic_ai.py", "said = agent.run_sync('Say hello').output"),
}
JAVASCRIPT = """
import {{ generateText }} from "ai";
{sample}
const {{ text }} = await generateText({{ model, prompt: "Say hello" }});
console.log(JSON.stringify(text));
"""

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("demo"), "--demo") as serving:
        serving.read_until("router.app: ready")
        serving.drain()
        yield serving


def sample(language: str, part: str, demo: Serving) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = [text for text in blocks if part in text]
    assert ORIGIN in found
    return str(found.replace(ORIGIN, f"http://127.0.0.1:{demo.port}"))


@pytest.mark.parametrize("package", PYTHON)
def test_a_python_sample_gets_an_answer(demo: Serving, tmp_path: Path, package: str) -> None:
    script, question = PYTHON[package]
    head = re.findall(
        r"^# /// script\n.*?^# ///$", (packages.HERE / "python" / script).read_text(), re.S | re.M
    )
    program = tmp_path / script
    text = sample("python", f"import {package}" if package == "litellm" else f"from {package}", demo)
    program.write_text(f"{head[0]}\n{text}\n{question}\nimport json\nprint(json.dumps(said))\n")
    assert "built-in demo" in packages.run_python(str(program), {}, tmp_path / "home")


def test_the_javascript_sample_gets_an_answer(demo: Serving, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(packages.npm_packages("node"))
    program = tmp_path / "sample.mjs"
    program.write_text(JAVASCRIPT.format(sample=sample("js", "createOpenAICompatible", demo)))
    assert "built-in demo" in json.dumps(packages.run_node(str(program), {}, tmp_path / "home"))
