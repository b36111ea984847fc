"""What the worker does. ``shared_task`` needs no application to be imported: there is one per Flask application."""

from __future__ import annotations

import time
from typing import Any

from flask import current_app

from fastq import Task, shared_task


@shared_task(bind=True)
def index_pages(self: Task[..., Any], pages: int, pause_s: float = 0.1) -> dict[str, Any]:
    """Pretend to index pages, and say how far it is after each."""
    for page in range(pages):
        time.sleep(pause_s)
        self.update_state(state="PROGRESS", meta={"current": page + 1, "total": pages, "status": f"page {page + 1}"})
    # the configuration of Flask: the task runs in its context
    return {"current": pages, "total": pages, "status": current_app.config["GREETING"], "result": pages}


@shared_task
def fail() -> None:
    """Fail, to see what the page shows then."""
    raise ValueError("no pages there")
