"""Recipes and job templates of the checkout are part of the package: `deepscaler quickstart` works from a wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable installation reads them from the checkout
            for folder, pattern in (("recipes", "*.toml"), ("deploy", "*")):
                target = Path(self.build_lib) / "deepscaler" / folder
                target.mkdir(parents=True, exist_ok=True)
                for path in Path(folder).glob(pattern):
                    shutil.copy2(path, target)


setup(cmdclass={"build_py": BuildWithRecipes})
