"""Functions compiled by numba for CPU, shared by sampling and learning."""
