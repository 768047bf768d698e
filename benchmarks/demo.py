"""Record the first minute for the README: serve, ask, explain, as they print it, into one SVG.

    uv run python -m benchmarks.demo [--out docs/demo.svg]

Runs `router serve` on a free port of an empty home with no key, then `curl`, then `router explain`. The
picture says 8402 where the free port was and `~/llm-router` where the folder was; a dim ellipsis stands for
lines that were cut. Lines appear one after another where CSS animations run, and are all there where they do
not. Exit status 1 when the file is above 150 kB.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from benchmarks.processes import free_port
from tests.serving import Serving, bare_environment

ROOT = Path(__file__).parents[1]
MOST_BYTES = 150_000
COLUMNS = 104
HOME = "~/llm-router"
PROMPT = "Say hello in French"
HARD = "Prove that the square root of 2 is irrational"
BANNER_LINES = 7  # the rest of the banner is to be copied, and longer than a picture is wide
EXPLAIN_LINES = 19
TYPED_S, PRINTED_S, READ_S = 1.0, 0.06, 2.0
DARK = TerminalTheme(
    (16, 20, 30),
    (222, 226, 236),
    [
        (60, 66, 82),
        (240, 110, 110),
        (90, 205, 140),
        (232, 190, 100),
        (110, 160, 250),
        (190, 140, 245),
        (90, 200, 215),
        (222, 226, 236),
    ],
)
# The form that rich fills in, with the fonts that a machine has and none from the network.
FORM = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img"
  aria-label="A terminal: router serve, a request with curl, router explain">
<!-- Made by python -m benchmarks.demo -->
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; white-space: pre;
}}
{styles}
APPEARING
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g>
</svg>
"""


class Recording:
    """What the terminal shows, and when each of its lines appears."""

    def __init__(self) -> None:
        self._console = Console(
            record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False
        )
        self._appears_s: list[float] = []
        self._at_s = 0.5

    def typed(self, command: str) -> None:
        """Show a command as somebody typed it; lines after the first continue it."""
        for number, line in enumerate(command.splitlines()):
            self._show(Text.assemble(("> " if number else "$ ", "bold green"), (line, "bold")), 0.0)
        self._at_s += TYPED_S

    def printed(self, text: str, most_lines: int | None = None) -> None:
        """Show what a command printed, with its colours; an ellipsis for what is beyond `most_lines`."""
        lines = text.rstrip("\n").splitlines()
        for line in lines[:most_lines]:
            self._show(Text.from_ansi(line), PRINTED_S)
        if most_lines is not None and len(lines) > most_lines:
            self._show(Text("  …", style="dim"), PRINTED_S)
        self._show(Text(), READ_S)

    def _show(self, line: Text, then_s: float) -> None:
        """Write one line, as many rows of the terminal as it takes."""
        rows = line.wrap(self._console, COLUMNS)
        for row in rows:
            self._console.print(row, soft_wrap=True, highlight=False)
        self._appears_s += [self._at_s] * max(len(rows), 1)
        self._at_s += then_s

    def svg(self) -> str:
        """Return the picture; a row's text is hidden only while its animation waits."""
        delays = "\n".join(
            f'text[clip-path="url(#demo-line-{row})"] {{ animation-delay: {appears_s:.2f}s }}'
            for row, appears_s in enumerate(self._appears_s)
        )
        appearing = (
            "@keyframes appear { from { opacity: 0 } to { opacity: 1 } }\n"
            "@media (prefers-reduced-motion: no-preference) {\n"
            ".demo-matrix text { animation: appear 0.1s both }\n"
            f"{delays}\n}}"
        )
        drawn = self._console.export_svg(
            title="the first minute", theme=DARK, code_format=FORM, unique_id="demo"
        )
        return drawn.replace("APPEARING", appearing)


def record(home: Path) -> str:
    """Run the three commands in an empty folder; return the picture."""
    folder = home / "llm-router"
    folder.mkdir()
    shutil.copytree(ROOT / "models_catalog", folder / "models_catalog")
    port = free_port()
    environ = bare_environment(
        home, ROUTER_PORT=str(port), PYTHONPATH=str(ROOT), FORCE_COLOR="1", COLUMNS=str(COLUMNS)
    )
    router = [sys.executable, "-m", "router"]

    def shown(text: str) -> str:
        return text.replace(str(folder), HOME).replace(str(port), "8402").replace("\r", "")

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, check=True, timeout=60
        )
        return shown(done.stdout)

    recording = Recording()
    with Serving([*router, "serve"], folder, environ) as serving:
        serving.read_until("router.app: ready")
        recording.typed("router serve")
        recording.printed(shown(serving.text), BANNER_LINES)
        body = f'{{"model": "auto", "messages": [{{"role": "user", "content": "{PROMPT}"}}]}}'
        address = f"http://127.0.0.1:{port}/v1/chat/completions"
        kind = "Content-Type: application/json"
        recording.typed(shown(f"curl -i {address} -H '{kind}' \\\n  -d '{body}'"))
        recording.printed(run("curl", "-si", address, "-H", kind, "-d", body))
        recording.typed(f'router explain --any-key "{HARD}"')
        recording.printed(run(*router, "explain", "--any-key", HARD), EXPLAIN_LINES)
        serving.terminate_all()
    return recording.svg()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/demo.svg"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="router-demo-") as home:
        drawn = re.sub(r"[ \t]+$", "", record(Path(home)), flags=re.MULTILINE)
    given.out.write_text(drawn)
    size = given.out.stat().st_size
    print(f"{given.out}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"error: above {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
