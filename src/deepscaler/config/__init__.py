"""Recipes: TOML files validated into frozen models. Loads without torch."""

from deepscaler.config.load import RecipeError, Resolved, load_recipe, resolve
from deepscaler.config.models import Recipe
from deepscaler.config.resume import changed_settings, recipe_hash

__all__ = ["Recipe", "RecipeError", "Resolved", "changed_settings", "load_recipe", "recipe_hash", "resolve"]
