"""Parts of fastq for frameworks that say in the environment that they are in use."""

from __future__ import annotations

import importlib.util
import os
import warnings

__all__ = ["FixupWarning", "of_environment"]

#: environment variable -> the framework's package, and what prepares an application for it
_FRAMEWORKS = {"DJANGO_SETTINGS_MODULE": ("django", "fastq.contrib.django.fixup:fixup")}


class FixupWarning(UserWarning):
    """Say that a framework is named in the environment and cannot be used."""


def of_environment() -> list[str]:
    """Return the dotted names of the fixups that an application gets when it is not given any."""
    found: list[str] = []
    for variable, (package, path) in _FRAMEWORKS.items():
        if not os.environ.get(variable):
            continue
        if importlib.util.find_spec(package) is None:
            warnings.warn(f"{variable} is {os.environ[variable]!r}, but {package} is not installed", FixupWarning, stacklevel=4)
        else:
            found.append(path)
    return found
