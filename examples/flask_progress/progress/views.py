"""Start a task (202 and where to look), and say how far it is."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app, jsonify, render_template, request, url_for
from flask.typing import ResponseReturnValue

from fastq import AsyncResult
from progress.tasks import fail, index_pages

pages = Blueprint("pages", __name__)


@pages.get("/")
def index() -> ResponseReturnValue:
    return render_template("index.htm")


@pages.post("/start")
def start() -> ResponseReturnValue:
    """Start the long task."""
    count = request.values.get("pages", 20, type=int)
    pause_s = request.values.get("pause_s", 0.2, type=float)
    return accepted(index_pages.delay(count, pause_s))


@pages.post("/fail")
def start_failing() -> ResponseReturnValue:
    return accepted(fail.delay())


def accepted(result: AsyncResult[Any]) -> ResponseReturnValue:
    """Say where the status of a task is."""
    return jsonify(id=result.id), 202, {"Location": url_for("pages.status", task_id=result.id)}


@pages.get("/status/<task_id>")
def status(task_id: str) -> ResponseReturnValue:
    """Say how far a task is; ``PENDING`` also for one that nobody has heard of."""
    result = current_app.extensions["fastq"].AsyncResult(task_id)
    # read once: state and info of the same moment
    state, info = result.state, result.info
    if isinstance(info, Exception):
        return jsonify(state=state, status=str(info))
    return jsonify({"state": state, "current": 0, "total": 1, "status": "waiting", **(info or {})})
