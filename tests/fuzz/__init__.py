"""Fuzzers: `python -m tests.fuzz NAME --minutes 10`."""
