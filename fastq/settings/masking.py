"""Hide secrets in what is shown to people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["censor", "mask_url"]

_MASK = "********"
# patterns are compiled at their first use: importing fastq stays quick
#: names, the application's own included, whose values are hidden
_SECRET = (
    r"(?i)pass|secret|token|api_?key|signature|private|credential|^security_(key|trusted_keys)$|(?<!routing_)(?<!_by_)key(_id)?$"
)
_PASSWORD = r"(?<=://)([^/@\s]*?):([^/\s]*)@"
#: parameters of a URL that are passwords
_PARAMETER = r"(?i)(?<=[?&])([a-z_]*password)=[^&\s]*"


def mask_url(url: str) -> str:
    """Hide the password of a URL."""
    return re.sub(_PARAMETER, r"\1=**", re.sub(_PASSWORD, r"\1:**@", url))


def censor(name: str, value: Any) -> Any:
    """Return what may be shown of a setting's value: passwords in URLs and values with a telling name are hidden, at any depth."""
    if value and not isinstance(value, Mapping | bool) and re.search(_SECRET, name):
        return _MASK
    if isinstance(value, str) and "://" in value:
        return mask_url(value)
    if isinstance(value, Mapping):
        return {k: censor(k if isinstance(k, str) else "", v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(censor("", v) for v in value)
    return value
