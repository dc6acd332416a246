"""Settings of transformers' continuous batching under the names that this version has."""

from __future__ import annotations

import inspect
from typing import Any

from transformers.generation.configuration_utils import ContinuousBatchingConfig


def continuous_batching_config(page_tokens: int, **settings: Any) -> Any:
    """page_tokens: size of a page of its cache; called block_size until transformers 5.17, page_size later."""
    known = inspect.signature(ContinuousBatchingConfig).parameters
    name = "page_size" if "page_size" in known else "block_size"
    return ContinuousBatchingConfig(**{name: page_tokens}, **settings)
