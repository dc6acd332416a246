"""Search path of a vLLM server (PYTHONPATH): nothing else lies here that could hide a module of its own."""
