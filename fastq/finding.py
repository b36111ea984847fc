"""Find the application that a command is about.

In this order: what is given (``-A``), ``FASTQ_APP``, ``app`` of ``[tool.fastq]`` in the nearest ``pyproject.toml``, then the one
FastQ instance in ``tasks.py``, ``app.py``, ``fastq_app.py`` or the package in the working directory.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from fastq.app import FastQ
from fastq.exceptions import ImproperlyConfigured

__all__ = ["find_app", "nearest_pyproject", "user_traceback"]

#: modules looked at when nothing says where the application is
CANDIDATES = ("tasks", "app", "fastq_app")
#: modules of a package that hold its application
SUBMODULES = ("fastq", "celery", "app", "tasks")


def nearest_pyproject(directory: str) -> str | None:
    """Return the path of the nearest ``pyproject.toml`` in the directory or above it."""
    directory = os.path.abspath(directory)
    while True:
        path = os.path.join(directory, "pyproject.toml")
        if os.path.isfile(path):
            return path
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent


def find_app(spec: str | None = None, cwd: str | None = None) -> FastQ:
    """Return the application, with the working directory on ``sys.path``.

    Raises ImproperlyConfigured with a text for the user: no such module, no application in it, two of them. An error inside an
    imported module is raised as it is, so that its traceback can be shown.
    """
    cwd = os.path.abspath(cwd or os.getcwd())
    if spec:
        return _from_spec(spec, f"-A {spec}", cwd)
    if spec := os.environ.get("FASTQ_APP"):
        return _from_spec(spec, f"FASTQ_APP={spec}", cwd)
    project = nearest_pyproject(cwd)
    if project is not None and (spec := _from_project(project)):
        return _from_spec(spec, f"app = {spec!r} of [tool.fastq] in {project}", cwd, os.path.dirname(project))
    return _look_around(cwd)


def user_traceback(exc: BaseException) -> str:
    """Format an exception with its traceback from the first line of the user's own code on: how fastq and importlib came there is
    left out. The whole traceback if it has no such line."""
    import traceback  # lazy: an error path

    fastq = os.path.dirname(os.path.abspath(__file__)) + os.sep
    frame = exc.__traceback__
    while frame is not None:
        path = frame.tb_frame.f_code.co_filename
        if not path.startswith(("<frozen importlib", fastq)) and os.path.basename(os.path.dirname(path)) != "importlib":
            return "".join(traceback.format_exception(type(exc), exc, frame)).rstrip()
        frame = frame.tb_next
    if isinstance(exc, SyntaxError):
        return "".join(traceback.format_exception_only(exc)).rstrip()
    return "".join(traceback.format_exception(exc)).rstrip()


def _on_path(*directories: str) -> None:
    for directory in reversed(directories):
        if directory not in sys.path and not ("" in sys.path and directory == os.getcwd()):
            sys.path.insert(0, directory)


def _from_project(path: str) -> str | None:
    import tomllib  # lazy: only where there is a project file

    try:
        with open(path, "rb") as file:
            section = tomllib.load(file).get("tool", {}).get("fastq", {})
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise ImproperlyConfigured(f"{path} cannot be read: {exc}") from exc
    spec = section.get("app") if isinstance(section, dict) else None
    if spec is not None and not isinstance(spec, str):
        raise ImproperlyConfigured(f"app of [tool.fastq] in {path} is {spec!r}: expected text such as 'pkg.module:app'")
    return spec


def _from_spec(spec: str, said_by: str, *directories: str) -> FastQ:
    _on_path(*directories)
    spec = spec.strip()
    if spec.endswith(".py") and os.path.isfile(os.path.join(directories[0], spec)):
        spec = spec.removesuffix(".py").replace(os.sep, ".")
    module_name, colon, attribute = spec.partition(":")
    if colon:
        module = _import(module_name, said_by, directories[0])
        return _attribute(module, attribute, said_by) if attribute else _of_module(module, said_by)
    if _exists(module_name):
        return _of_module(_import(module_name, said_by, directories[0]), said_by)
    parent, _, attribute = module_name.rpartition(".")
    if parent and _exists(parent):
        return _attribute(_import(parent, said_by, directories[0]), attribute, said_by)
    raise _no_module(module_name, said_by, directories[0])


def _exists(name: str) -> bool:
    """Say whether a module is there. Imports its parents; an error inside those is raised as it is."""
    if name in sys.modules:
        return True
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            return False
        raise
    except ValueError:
        return False


def _import(name: str, said_by: str, cwd: str) -> ModuleType:
    if not _exists(name):
        raise _no_module(name, said_by, cwd)
    return importlib.import_module(name)


def _no_module(name: str, said_by: str, cwd: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"There is no module {name!r} ({said_by}). Looked in {cwd} and on sys.path. "
        "Give the module or package that holds the application, such as -A tasks, -A pkg.module:app, and run from its directory."
    )


def _attribute(module: ModuleType, path: str, said_by: str) -> FastQ:
    value: Any = module
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            apps = _apps(module)
            hint = f" There is {', '.join(f'{module.__name__}:{name}' for name in apps)}." if apps else ""
            raise ImproperlyConfigured(f"{module.__name__} has no attribute {path!r} ({said_by}).{hint}") from None
    if isinstance(value, ModuleType):
        return _of_module(value, said_by)
    if not isinstance(value, FastQ):
        raise ImproperlyConfigured(f"{module.__name__}:{path} is {type(value).__name__}, expected a FastQ application ({said_by})")
    return value


def _of_module(module: ModuleType, said_by: str) -> FastQ:
    """Return the application of a module, or, for a package, of the submodule that is made for it."""
    found = _app_in(module, said_by)
    if found is not None:
        return found
    if hasattr(module, "__path__"):
        for last in SUBMODULES:
            name = f"{module.__name__}.{last}"
            if _exists(name):
                found = _app_in(_import(name, said_by, module.__name__), said_by)
                if found is not None:
                    return found
    raise ImproperlyConfigured(
        f"There is no FastQ application in {module.__name__} ({said_by}). Expected a variable such as `app = FastQ(...)` in "
        + (f"{module.__name__}/" + ".py, ".join(SUBMODULES) + ".py or __init__.py." if hasattr(module, "__path__") else "it.")
    )


def _apps(module: ModuleType) -> dict[str, FastQ]:
    """Return the applications of a module by the first name of each."""
    found: dict[str, FastQ] = {}
    for name, value in vars(module).items():
        # type(), not isinstance: a proxy such as current_app is not an application of this module
        if issubclass(type(value), FastQ) and not any(value is other for other in found.values()):
            found[name] = value
    return found


def _app_in(module: ModuleType, said_by: str) -> FastQ | None:
    apps = _apps(module)
    for name in ("app", "fastq", "celery"):
        if name in apps:
            return apps[name]
    if len(apps) > 1:
        names = ", ".join(f"{module.__name__}:{name}" for name in apps)
        raise ImproperlyConfigured(
            f"There are {len(apps)} FastQ applications in {module.__name__} ({said_by}): choose one of {names}."
        )
    return next(iter(apps.values()), None)


def _look_around(cwd: str) -> FastQ:
    _on_path(cwd)
    found: dict[str, FastQ] = {}
    looked: list[str] = []
    for name in CANDIDATES:
        if os.path.isfile(os.path.join(cwd, f"{name}.py")) or os.path.isfile(os.path.join(cwd, name, "__init__.py")):
            looked.append(name)
            _note(found, _local(name, cwd))
    if not found:
        for name in sorted(os.listdir(cwd)):
            if name.isidentifier() and name not in looked and os.path.isfile(os.path.join(cwd, name, "__init__.py")):
                here = [last for last in ("__init__", *SUBMODULES) if os.path.isfile(os.path.join(cwd, name, f"{last}.py"))]
                # only packages that look as if they held one: others are not imported for nothing
                if any(_mentions(os.path.join(cwd, name, f"{last}.py")) for last in here):
                    looked.append(name)
                    _note(found, _local(name, cwd))
    apps = {id(app): app for app in found.values()}
    if len(apps) == 1:
        return next(iter(apps.values()))
    if len(apps) > 1:
        raise ImproperlyConfigured(
            f"Found {len(apps)} FastQ applications in {cwd}: {', '.join(found)}. Choose one with -A, FASTQ_APP, or app in "
            "[tool.fastq] of pyproject.toml."
        )
    seen = f"looked into {', '.join(looked)}" if looked else "there is no tasks.py, app.py, fastq_app.py, and no package with one"
    raise ImproperlyConfigured(
        f"No FastQ application found in {cwd} ({seen}). Say where it is: -A module, -A module:attribute, FASTQ_APP, or app in "
        "[tool.fastq] of pyproject.toml."
    )


def _local(name: str, cwd: str) -> ModuleType | None:
    module = importlib.import_module(name)
    path = os.path.abspath(getattr(module, "__file__", None) or "")
    return module if path.startswith(cwd + os.sep) else None


def _mentions(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"FastQ" in file.read()
    except OSError:
        return False


def _note(found: dict[str, FastQ], module: ModuleType | None) -> None:
    if module is None:
        return
    modules = [module]
    if hasattr(module, "__path__") and not _apps(module):
        modules = [
            importlib.import_module(f"{module.__name__}.{last}") for last in SUBMODULES if _exists(f"{module.__name__}.{last}")
        ]
    for one in modules:
        for name, app in _apps(one).items():
            if not any(app is other for other in found.values()):
                found[f"{one.__name__}:{name}"] = app
