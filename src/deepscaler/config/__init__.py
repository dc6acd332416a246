"""Recipes: TOML files validated into frozen models. Loads without torch."""

from deepscaler.config.load import RecipeError, Resolved, changed_keys, load_recipe, recipe_hash, resolve
from deepscaler.config.models import Recipe

__all__ = ["Recipe", "RecipeError", "Resolved", "changed_keys", "load_recipe", "recipe_hash", "resolve"]
