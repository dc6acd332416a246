"""Whether Ray is installed. Loads neither torch nor Ray, so that a command can refuse at once."""

from __future__ import annotations

import importlib.util


def require_ray() -> None:
    """Raises ValueError with instructions where it is not."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "Ray is not installed in this environment, so cluster.kind = 'ray' cannot be used: "
            "`pip install 'deepscaler[cluster]'`, on every machine of the cluster; or take cluster.kind = 'local' or "
            "'torchrun'"
        )
