"""Measure the service on every engine with one process and with more: `python -m benchmarks.scaling`."""
