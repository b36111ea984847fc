"""Time a chord on Celery: ``celery_chord.py REDIS_URL MEMBERS REPEAT``, run by an interpreter that has Celery.

Prints one line of JSON: its version and the seconds of each chord, from sending to the body's result, on a worker of two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import celery
from celery import Celery, chord

app = Celery("celery_chord", broker=os.environ.get("CHORD_URL"), backend=os.environ.get("CHORD_URL"))
app.conf.worker_hijack_root_logger = False


@app.task
def noop(i):
    return i


@app.task
def total(values):
    return sum(values)


def main() -> None:
    url, members, repeat = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ["CHORD_URL"] = url
    app.conf.broker_url = app.conf.result_backend = url
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_chord", "worker", "-c", "2", "-l", "ERROR"],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        app.send_task("celery_chord.noop", (0,)).get(timeout=60)
        times = []
        for _ in range(repeat):
            begun = time.perf_counter()
            header = [app.signature("celery_chord.noop", (i,)) for i in range(members)]
            got = chord(header)(app.signature("celery_chord.total")).get(timeout=300)
            times.append(time.perf_counter() - begun)
            if got != members * (members - 1) // 2:
                raise RuntimeError(f"the chord returned {got!r}")
    finally:
        worker.terminate()
        worker.wait(60)
    print(json.dumps({"version": celery.__version__, "times_s": times}))


if __name__ == "__main__":
    main()
