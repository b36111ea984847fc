"""``fastq inspect``: ask the nodes."""

from __future__ import annotations

from fastq.cli.asking import remote_command

__all__ = ["command"]

command = remote_command("inspect", "Ask the nodes something, print what they answer.")
