"""What ``fastq -A make_fastq worker`` loads: the application, made by the factory as the web server makes it."""

from __future__ import annotations

from progress import create_app

flask_app = create_app()
fastq_app = flask_app.extensions["fastq"]
