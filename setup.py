"""The recipes of the checkout are part of the package: `deepscaler quickstart` works from a wheel, in any directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable installation reads them from the checkout
            target = Path(self.build_lib) / "deepscaler" / "recipes"
            target.mkdir(parents=True, exist_ok=True)
            for recipe in Path("recipes").glob("*.toml"):
                shutil.copy2(recipe, target)


setup(cmdclass={"build_py": BuildWithRecipes})
