"""yaml and pickle: read only where ``accept_content`` names them, imported only where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from fastq.exceptions import DecodeError, EncodeError, ImproperlyConfigured

__all__ = ["pickle_dumps", "pickle_loads", "yaml_dumps", "yaml_loads"]


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        raise ImproperlyConfigured("the yaml serializer needs PyYAML: pip install pyyaml") from None


def yaml_dumps(value: object) -> bytes:
    yaml = _yaml()
    try:
        return bytes(yaml.safe_dump(value, allow_unicode=True).encode())
    except yaml.YAMLError as exc:
        raise EncodeError(f"yaml cannot write it: {exc}") from exc


def yaml_loads(data: bytes) -> Any:
    yaml = _yaml()
    try:
        return yaml.safe_load(data.decode())
    except yaml.YAMLError as exc:
        raise DecodeError(f"not YAML: {exc}") from exc


def pickle_dumps(value: object) -> bytes:
    import pickle  # lazy: only an application that names it

    return pickle.dumps(value, protocol=4)


def pickle_loads(data: bytes) -> Any:
    import pickle  # lazy: only an application that names it

    return pickle.loads(data)
