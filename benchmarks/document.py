"""Put measured numbers into a document, between two marks that stay there."""

from __future__ import annotations

from pathlib import Path


def put(text: str, name: str, content: str) -> str:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``; ValueError without these marks."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(opening)
    _, ended, after = rest.partition(closing)
    if not found or not ended:
        raise ValueError(f"there is no {opening} ... {closing} to put the numbers between")
    return f"{before}{opening}\n\n{content.strip()}\n\n{closing}{after}"


def put_into(path: Path, name: str, content: str) -> None:
    path.write_text(put(path.read_text(), name, content))


def about(command: str, when: str, commit: str, machine: dict[str, object], versions: dict[str, str]) -> str:
    """Say where numbers come from: command, date, commit, machine, versions."""
    came = f"`{command}`, {when[:10]}" + (f", commit `{commit}`" if commit else "")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{came}\n\n{machine['cpus']} CPUs ({machine['cpu']}), {machine['system']}; {listed}"
