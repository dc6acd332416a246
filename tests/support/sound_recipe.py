"""A recipe that every check accepts; tests of the checks spoil one setting of it."""

from __future__ import annotations

SOUND = """
name = "sound"
preset = "justrl"
num_steps = 6
[sft]
[data]
source = "synthetic"
max_prompt_tokens = 64
[rollout]
prompts_per_step = 8
group_size = 4
[[stages]]
name = "short"
max_completion_tokens = 32
steps = 4
[[stages]]
name = "long"
max_completion_tokens = 64
"""
