"""A program that starts Ray and an actor, prints its processes and is killed then: python killed_ray_driver.py."""

from __future__ import annotations

import os
import signal

from deepscaler.cluster.ray_remote import ActorOptions, RayRemote
from deepscaler.cluster.ray_session import Local, ray_session
from ray_objects import Counter
from ray_processes import descendants

if __name__ == "__main__":
    with ray_session("local", Local(num_cpus=1, num_gpus=0, object_store_bytes=80 * 2**20)):
        assert RayRemote(Counter, ActorOptions("worker 0")).call("add", 1, 2).result() == 3
        print(*descendants(os.getpid()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
