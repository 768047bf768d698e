"""eth-account, as tests use it: it signs for payers and recovers who signed.

A package below it raises Python's recursion limit for the whole process, and deeply nested JSON would then be
read on until the stack ends: the limit is put back.
"""

from __future__ import annotations

import sys

_limit = sys.getrecursionlimit()

from eth_account import Account  # noqa: E402
from eth_account.messages import encode_typed_data  # noqa: E402

sys.setrecursionlimit(_limit)

__all__ = ["Account", "encode_typed_data"]
