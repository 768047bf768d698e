"""Requests made from the OpenAPI document: `python -m tests.contract --examples 500`."""
