"""Reward functions that come with the package: one module each, named as in a recipe, with `reward` and `check`.

They run as functions of the user's do and load the standard library only. `check` gets a part's arguments at load and
raises ValueError or TypeError for those that cannot be used.
"""
