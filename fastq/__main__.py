"""``python -m fastq`` and the ``fastq`` command."""

from __future__ import annotations

from fastq.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
