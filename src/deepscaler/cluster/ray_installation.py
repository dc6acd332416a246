"""Whether Ray is installed. Loads neither torch nor Ray, so that a command can refuse at once."""

from __future__ import annotations

import importlib.util

from deepscaler.cluster.torchrun_environment import refuse_ranks


def require_ray() -> None:
    """Raises ValueError with instructions where it is not, or where torchrun started several processes."""
    refuse_ranks()
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "Ray is not installed in this environment, so cluster.kind = 'ray' cannot be used: "
            "`pip install 'deepscaler[cluster]'`, on every machine of the cluster; or take cluster.kind = 'local' or "
            "'torchrun'"
        )
