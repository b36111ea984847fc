"""``fastq control``: tell the nodes to change something."""

from __future__ import annotations

from fastq.cli.asking import remote_command

__all__ = ["command"]

command = remote_command("control", "Tell the nodes to do something, print what they answer.")
