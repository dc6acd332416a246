"""Phi-3 and Phi-4-mini: joined projections, rotations of a part of a head, windows, longrope (arXiv:2404.14219)."""

from __future__ import annotations

from deepscaler.modeling.families.family import Family

FAMILY = Family("phi3", parts=None)
