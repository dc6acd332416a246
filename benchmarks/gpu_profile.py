"""Where the time of learning and decoding goes on a GPU: device time by kernel, the 1.5B architecture, random weights.

    python benchmarks/gpu_profile.py [--size 1.5b] [--device cuda] [--json FILE]

One micro-batch of 8K sequences, forward and backward, as it trains; decoding steps at a small and at a large cache,
graphs replayed. Kernels are also counted in classes by their names. On CPU, operators instead of kernels. A part of
gpu.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from gpu_device import Report, built, clock, empty_cache, main, recipe, workload
from gpu_learning import make_samples
from gpu_sampling import prepared_step
from torch.profiler import ProfilerActivity, profile

from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.flash_attention import flash_works
from deepscaler.engines.torch.paged_cache import FlashCache, PagedCache
from deepscaler.training.replica import policy_computer

LONGEST = 20  # kernels reported
NAME_CHARACTERS = 110
CLASSES = {  # the first that is found in the name
    "attention": r"flash|fmha|attention",
    "products": r"gemm|nvjet|cutlass|cublas|xmma|aten::(mm|addmm|bmm)",
    "copies and casts": r"copy|cat|memcpy|index|gather|scatter",
    "reductions and softmax": r"reduce|softmax|scan|sort|search",
    "elementwise": r"elementwise|fill|foreach|vectorized",
}


def class_of(name: str) -> str:
    return next((label for label, pattern in CLASSES.items() if re.search(pattern, name, re.IGNORECASE)), "others")


def profiled(function: Callable[[], object], device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds of one call: by the clock, of the device in all, by class and by kernel."""
    function()
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    start = clock(device)
    for _ in range(repeats):
        function()
    wall = (clock(device) - start) / repeats
    with profile(activities=[activity]) as recorded:
        for _ in range(repeats):
            function()
        clock(device)
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [(e.key, getattr(e, field) / 1e3 / repeats, e.count / repeats) for e in recorded.key_averages()]
    events = sorted((e for e in events if e[1] > 0), key=lambda e: -e[1])
    classes: dict[str, float] = {}
    for name, taken, _ in events:
        classes[class_of(name)] = classes.get(class_of(name), 0.0) + taken
    longest = [{"name": n[:NAME_CHARACTERS], "ms": round(t, 3), "calls": c} for n, t, c in events[:LONGEST]]
    total = sum(e[1] for e in events)
    return {
        "wall_ms": 1e3 * wall,
        "device_ms": total,
        "calls": sum(e[2] for e in events),
        "classes_ms": {name: round(value, 3) for name, value in sorted(classes.items(), key=lambda c: -c[1])},
        "longest": longest,
    }


def learning(size: str, device: torch.device, report: Report) -> None:
    work, model = workload(size), built(size, device, torch.float32)
    computer, name = policy_computer(model, recipe(size)), next(iter(work.sequences))
    samples = make_samples(work.sequences[name], work.prompt)
    report(f"learning, {name}", profiled(lambda: computer.accumulate(samples, None, None), device, 1))


@torch.inference_mode()
def decoding(size: str, device: torch.device, report: Report) -> None:
    work, model = workload(size), built(size, device, torch.bfloat16)
    decoder = Decoder(model)
    flash = flash_works(device, model.dtype, decoder.heads, decoder.kv_heads, decoder.head_dim)
    for batch, context in ((work.batches[0], work.contexts[0]), (work.batches[-1] // 2, work.contexts[1])):
        empty_cache(device)
        step = prepared_step(model, FlashCache if flash else PagedCache, batch, context, work.decode_steps)
        assert step is not None, "the cache does not fit"
        report(f"decoding, {batch} rows at {context}", profiled(step.run, device, work.decode_steps // 3 or 1))
        del step  # its cache, before the next one takes its share of what is free


def profiles(size: str, device: torch.device, report: Report) -> None:
    for part in (learning, decoding):
        part(size, device, report)
        empty_cache(device)


if __name__ == "__main__":
    main(__doc__ or "", {"profile": profiles})
