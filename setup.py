"""Which folders the installed package has; everything else about it stands in pyproject.toml.

A file of its own, since pyproject.toml can either find packages or map folders, not both: the repository's gin/ is
installed as dots_jax/_gin, so that `--gin_file=tiny.gin` works from any folder. gin/ itself holds no Python: as a package it
would hide the gin library from everything that runs in this folder.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dots_jax", "dots_jax.*"]), "dots_jax._gin"],
    package_dir={"dots_jax._gin": "gin"},
    package_data={"dots_jax._gin": ["*.gin", "*/*.gin"], "dots_jax.hlo": ["kernel_tables/*.json"]},
)
