"""Supervised fine-tuning of a model on people's traces: `deepscaler sft RECIPE --run-dir DIR`."""
