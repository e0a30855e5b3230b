"""Everything that is fixed stands in pyproject.toml; what depends on the machine is decided here."""

from setuptools import setup

setup()
