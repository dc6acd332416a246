"""Reward functions for tests, good and bad ones. Files of users look like this one: plain functions, no base class."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
import urllib.request
from pathlib import Path


def length(completion, *, scale=1.0):
    return scale * len(completion)


def everything(**facts):
    return float(len(facts))


def answers(answer, references, thinking, response, correct, level):
    return {"reward": float(correct), "level": level, "thought": len(thinking), "said": len(response or "")}


def batched(completions, level):
    assert isinstance(completions, list) and len(level) == len(completions)
    return [0.5 if n else None for n in level]


async def waiting(completion):
    await asyncio.sleep(60 if completion == "slow" else 0.01)
    return 1


def text(completion):
    return "good"


def loud(completion):
    for _ in range(40):
        print("x" * 100_000)
    return 1.0


def forks(completion):
    """Leaves a grandchild in a session of its own, whose name is its environment's DEEPSCALER_REWARD_DIR/pid."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(os.environ["DEEPSCALER_REWARD_DIR"], "pid").write_text(str(os.getpid()))
            time.sleep(600)
        return 3.0
    return 2.0


def network(completion):
    return float(len(urllib.request.urlopen("http://127.0.0.1:9/", timeout=5).read()))


def network_in_c(completion):
    """What an extension module would do: 1 where the kernel gives an internet socket, 0 where it refuses."""
    return float(ctypes.CDLL(None).socket(2, 1, 0) >= 0)


def secret(completion):
    return float("DEEPSCALER_TEST_SECRET" in os.environ)


def sleeps(completion):
    if completion == "slow":
        time.sleep(600)
    return 1.0


def spins(completion):
    while True:
        pass


def greedy(completion):
    return float(len(bytearray(10**11)))


def dies(completion):
    os.kill(os.getpid(), 9)


def not_a_number(completion):
    return float("nan")


def endless(completion):
    return 10**400


def too_few(completions):
    return [1.0]


def one_number(completions):
    return 1.0


def no_reward(completion):
    return {"score": 1.0}


def raises(completion):
    raise ValueError(f"cannot score {completion}")


def by_place(completion, /):
    return 1.0


def wants_a_column(completion, difficulty_of_row):
    return 1.0


no_function = 3
