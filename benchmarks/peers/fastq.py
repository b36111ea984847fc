"""fastq, for the shared peer harness (``benchmarks/harness.py`` puts this file among its adapters and runs it).

By hand: copy this file to the harness' ``peers/`` folder and make a virtual environment ``$BENCH_VENVS/fastq`` with
``pip install 'fastq[redis,gevent,eventlet]'``; then ``BENCH_VENVS=... python3 run.py w2 fastq prefork1``.
"""

from benchlib.peer import RESULTS, URL0, Peer, V, in_peer

# modes: default
#        safe/fast: worker_lease 3 s instead of 15, so that a dead node's tasks run again within 6 s


class FastQ_(Peer):
    def worker_cmds(self, v, bin):
        return [
            [bin("python"), "-m", "fastq", "-q", "worker", "-A", "peers.fastq", "-P", v.pool, "-c", str(v.conc), "-l", "WARNING"]
            + (["--processes", str(v.procs)] if v.procs > 1 else [])
        ]

    def pending(self, r):
        n = r("LLEN", "fastq:{default}:ready:0") + r("ZCARD", "fastq:{default}:delayed")
        cursor = b"0"
        while True:
            cursor, keys = r("SCAN", cursor, "MATCH", "fastq:{default}:leased:*", "COUNT", 1000)
            for key in keys:
                # one field per delivery, and one for the last call's number
                n += r("HLEN", key) - (r("HEXISTS", key, "#") or 0)
            if cursor == b"0":
                return n

    def results(self, r):
        n, cursor = 0, b"0"
        while True:
            cursor, keys = r("SCAN", cursor, "MATCH", "fastq:results:*", "COUNT", 1000)
            n += sum(r("HLEN", key) for key in keys)
            if cursor == b"0":
                return n


PEER = FastQ_(
    name="fastq",
    has_bulk=True,
    variants={
        "solo": V("solo"),
        "prefork1": V("prefork", 1, 1),
        "prefork2": V("prefork", 1, 2),
        "threads10": V("threads", 1, 10),
        "gevent100": V("gevent", 1, 100),
        "eventlet100": V("eventlet", 1, 100),
        "async100": V("asyncio", 1, 100),
        "gevent500": V("gevent", 1, 500),
        "eventlet500": V("eventlet", 1, 500),
        "threads500": V("threads", 1, 500),
        "async500": V("asyncio", 1, 500),
        "gevent2x250": V("gevent", 2, 250),
    },
    w2=["solo", "prefork1", "prefork2", "threads10", "gevent100", "eventlet100", "async100"],
    w3=["gevent500", "eventlet500", "threads500", "async500"],
    w4=["solo", "prefork1", "prefork2", "threads10", "gevent100"],
    w5=["prefork2", "gevent500"],
    w6="prefork2",
)

if in_peer():
    import asyncio
    import os
    import time

    from benchlib import marks
    from benchlib.peer import MODE, POOL

    from fastq import FastQ

    app = FastQ("bench", broker=URL0, backend=URL0)
    app.conf.task_ignore_result = not RESULTS
    if MODE in ("safe", "fast"):
        app.conf.worker_lease = 3

    @app.task(name="noop")
    def noop(i):
        marks.done(i)
        return i

    if POOL == "asyncio":

        @app.task(name="sleep_ms")
        async def sleep_ms(i, ms):
            marks.start(i)
            await asyncio.sleep(ms / 1000)
            marks.done(i)
            return i
    else:

        @app.task(name="sleep_ms")
        def sleep_ms(i, ms):
            marks.start(i)
            time.sleep(ms / 1000)
            marks.done(i)
            return i

    TASKS = {"noop": noop, "sleep_ms": sleep_ms}

    def connect():
        # the first message opens the connection; a queue of its own, so that it is not counted
        noop.apply_async((0,), queue=f"connect-{os.getpid()}")

    def enqueue(task, n, *extra):
        f = TASKS[task].delay
        for i in range(n):
            f(i, *extra)

    def bulk(task, n, *extra):
        TASKS[task].delay_many([(i, *extra) for i in range(n)])

    def roundtrip(n):
        out, pc = [], time.perf_counter
        for i in range(n):
            t = pc()
            assert noop.delay(i).get() == i
            out.append(pc() - t)
        return out
