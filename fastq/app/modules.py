"""Import the modules that hold an application's tasks: ``imports``, ``include``, and those found by autodiscovery."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.config import Settings

__all__ = ["Packages", "discover", "import_configured"]

#: package names, or what returns them; None: Django's installed applications
Packages = Iterable[str] | str | Callable[[], Iterable[str] | str] | None


def import_configured(conf: Settings) -> None:
    """Import the modules of ``imports`` and ``include``; ImproperlyConfigured for one that does not exist."""
    for setting in ("imports", "include"):
        for name in conf[setting]:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as exc:
                if exc.name is None or not (name == exc.name or name.startswith(exc.name + ".")):
                    raise  # an import inside it failed: that traceback is the one to show
                raise ImproperlyConfigured(
                    f"{setting} ({conf.origin(setting)}) names the module {name!r}, but there is no module {exc.name!r}"
                ) from exc


def discover(packages: Packages, related_name: str | None = "tasks") -> list[Any]:
    """Import ``<package>.<related_name>`` of each package that has one (None: the package); return the modules."""
    if callable(packages):
        packages = packages()
    if packages is None:
        packages = _django_packages()
    if isinstance(packages, str):
        packages = packages.replace(",", " ").split()
    return [module for package in packages if (module := _related(package, related_name)) is not None]


def _related(package: str, related_name: str | None) -> Any:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as exc:
        # an entry of INSTALLED_APPS may name a class: polls.apps.PollsConfig
        package, _, last = package.rpartition(".")
        if not package or not last[:1].isupper() or (exc.name or "") != f"{package}.{last}":
            raise
        module = importlib.import_module(package)
    if not related_name:
        return module
    name = f"{package}.{related_name}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # it has none; an import inside it that fails is its own error. A module that is no package cannot have one
        if exc.name == name:
            return None
        raise


def _django_packages() -> list[str]:
    """Return Django's installed applications, none where Django is not configured."""
    if "DJANGO_SETTINGS_MODULE" not in os.environ:
        settings = getattr(sys.modules.get("django.conf"), "settings", None)
        if not getattr(settings, "configured", False):
            return []
    # lazy: imported by name, so that nothing here depends on Django
    apps = importlib.import_module("django.apps").apps
    if not apps.ready:
        importlib.import_module("django").setup()
    return [config.name for config in apps.get_app_configs()]
