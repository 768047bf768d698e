"""A .pth file that nobody knows is found: Python runs what it says at every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
SETUPTOOLS = (  # as setuptools writes it
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim(); "
)


def looked(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / ".ci" / "pth.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_environment_without_surprises_passes(tmp_path: Path) -> None:
    (tmp_path / "distutils-precedence.pth").write_text(SETUPTOOLS)
    (tmp_path / "_virtualenv.pth").write_text("import _virtualenv")
    (tmp_path / "_editable_impl_llm_router.pth").write_text("/somewhere/llm-router\n")
    assert looked(tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("helpful.pth", "/somewhere\n"),
        ("_editable_impl_llm_router.pth", "import os; os.system('true')\n"),
        ("distutils-precedence.pth", f"import os; os.system('true')\n{SETUPTOOLS}"),
        ("_virtualenv.pth", "import _virtualenv; import os\n"),
        ("sitecustomize.py", ""),
    ],
)
def test_a_file_that_nobody_knows_or_that_runs_code_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    done = looked(tmp_path)
    assert done.returncode == 1
    assert name in done.stdout
