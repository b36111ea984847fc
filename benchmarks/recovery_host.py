"""Start a worker that believes to be on another host: ``python recovery_host.py <12 hex digits> worker -A ...``.

Nodes on one host recognise each other's dead at once, by boot and pid (``fastq/worker/identity.py``). What happens when a host is
lost is only seen by nodes that cannot.
"""

from __future__ import annotations

import sys

from fastq.cli import main
from fastq.worker import identity

if __name__ == "__main__":
    host = sys.argv.pop(1)
    identity._host = lambda: host
    main()
