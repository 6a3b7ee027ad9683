"""Ray Data, which only labelling in bulk needs. Nothing here needs more than Python."""

from __future__ import annotations

import os
import secrets
from typing import Any

from contract.errors import ContractError


def import_ray(*, local: bool) -> Any:
    """The module `ray`, with `ray.data` loaded and its usage reports off. Raises `ContractError` where it is missing.

    `local`: for a session of this machine alone. Ray reads some variables when it is imported for the first time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local and not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        # a token for this session alone; otherwise Ray writes one into the home folder, and not every user has one
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ContractError(f"Labelling in bulk needs Ray Data ({error}): pip install 'food-vision[bulk]'.") from None
    return ray
