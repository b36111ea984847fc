"""The application of a worker under measurement (``fastq worker -A fastq.bench.worker_app``).

What it needs comes through the environment: URLs on a command line would show their passwords to every user of the machine.
"""

from __future__ import annotations

import json
import os

from fastq.bench import marks, tasks

__all__ = ["app"]

_given = json.loads(os.environ[tasks.ENV])
app = tasks.build(_given["broker"], _given["backend"], _given["conf"], os.environ.get(marks.ENV)).app
