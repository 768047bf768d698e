"""Payments on real chains, by the clients that others publish: README.md says what is what."""

from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
