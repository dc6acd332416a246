"""Runs inside a vLLM server, in an environment of its own: the standard library, torch and safetensors only."""
