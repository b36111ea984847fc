"""How answers of nodes are shown: a line per node, below it what it has said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["as_json", "failed", "online", "show"]


def show(node: str, payload: Any) -> None:
    """Print one node's answer."""
    status, text = _shown(payload)
    colour = "red" if status == "ERROR" else "green"
    click.echo(f"{click.style('->', fg='cyan')}  {click.style(node, fg='cyan')}: {click.style(status, fg=colour)}")
    for line in text.splitlines():
        click.echo(f"    {line}".rstrip())


def failed(payload: Any) -> bool:
    """Say whether an answer is an error."""
    return isinstance(payload, Mapping) and set(payload) == {"error"}


def online(count: int) -> str:
    """Return the summary line."""
    return f"{count} {'node' if count == 1 else 'nodes'} online."


def as_json(value: Any) -> str:
    """Return JSON; what JSON does not know is written as text."""
    return json.dumps(value, default=_text, sort_keys=False)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _shown(payload: Any) -> tuple[str, str]:
    if failed(payload):
        return "ERROR", _line(payload["error"])
    if isinstance(payload, Mapping):
        if set(payload) == {"ok"}:
            return "OK", _line(payload["ok"])
        return "OK", json.dumps(payload, default=_text, indent=4) if payload else "- empty -"
    if isinstance(payload, list | tuple):
        return "OK", "\n".join(f"* {_line(item)}" for item in payload) if payload else "- empty -"
    return "OK", _line(payload)


def _line(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)
