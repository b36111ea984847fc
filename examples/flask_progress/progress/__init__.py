"""A page that starts a long task and follows its progress, in the factory pattern of Flask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from fastq import FastQ, Task

__all__ = ["create_app", "fastq_init_app"]


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application; ``config`` wins over the defaults."""
    app = Flask(__name__)
    url = os.environ.get("FASTQ_BROKER_URL") or f"sqlite:///{Path(__file__).resolve().parent.parent / 'fastq.db'}"
    app.config.from_mapping(
        GREETING="Indexed by Flask",
        FASTQ={"broker_url": url, "result_backend": url, "imports": ["progress.tasks"]},
    )
    app.config.from_mapping(config or {})
    fastq_init_app(app)
    from progress import views

    app.register_blueprint(views.pages)
    return app


def fastq_init_app(app: Flask) -> FastQ:
    """Make the fastq application of a Flask application: its tasks run inside ``app.app_context()``."""

    class FlaskTask(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    fastq_app = FastQ(app.name, task_cls=FlaskTask)
    fastq_app.config_from_object(app.config["FASTQ"])
    fastq_app.set_default()
    app.extensions["fastq"] = fastq_app
    return fastq_app
