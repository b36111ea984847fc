"""Whatever a message says of what is to follow it, the worker settles it and goes on."""

from __future__ import annotations

import random
import secrets
from typing import Any

import pytest

from fastq import FastQ, _core, flow
from fastq.records import Publication
from fastq.testing import start_worker
from fastq.transports import open_inspector
from tests.workers import eventually

BODY = b"\x92\x91\x01\x80"
LEAF = flow.leaf("x", "damaged.add", "default", 0, "application/x-msgpack", BODY)
FLOW = ("chain", "links", "errbacks", "join", "joined", "args", "errback", "limits", "inbox", "loaded")
OPTIONS = ("group", "headers", "priority", "root_id", "parent_id", "eta_ms", "shadow", "ignore_result", "requeued", "stamps")
MESSAGES = 400


def junk(source: random.Random, depth: int = 0) -> Any:
    """Return any value that a message can hold, often one that nearly makes sense."""
    if depth > 2 or source.random() < 0.5:
        return source.choice([None, True, 5, -1, 2**63, 1.5, "j", "0", "default", b"bytes", LEAF, [], {}])
    if source.random() < 0.6:
        return [junk(source, depth + 1) for _ in range(source.randrange(4))]
    return {source.choice(FLOW): junk(source, depth + 1) for _ in range(source.randrange(4))}


def node(source: random.Random) -> bytes:
    """Return a node of the right form whose fields are at their edges, or one that only looks like a node."""
    id = source.choice(["x", "", "n" * 300, "018bcfe5-6800-7010-ba45-c091c8215b92"])
    timing = source.choice([None, (0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0), (2**60, 0, 0, 0)])
    own = source.choice([None, {"flow": junk(source)}, {"priority": junk(source)}])
    leaf = flow.leaf(
        id, "damaged.add", source.choice(["default", "", "a}b"]), source.choice([0, 9, 10, -1]), "application/x-msgpack",
        source.choice([BODY, b""]), immutable=source.random() < 0.5, timing=timing, options=own, waited=source.random() < 0.5,
    )  # fmt: skip
    kind = source.randrange(5)
    if kind == 1:
        return flow.group("g", [leaf, LEAF])
    if kind == 2:
        return flow.chord("j", "default", [leaf] * source.randrange(3), source.choice([leaf, LEAF]))
    if kind == 3:
        return flow.chain([leaf, LEAF])
    return leaf if kind else source.choice([b"junk", b"", b"\x91\x09"])


def shaped(source: random.Random) -> dict[str, Any]:
    """Return a flow that passes the gate, whatever its nodes are."""
    made = {
        "chain": [node(source) for _ in range(source.randrange(3))],
        "links": [node(source)],
        "errbacks": [node(source)],
        "join": ["j", source.choice(["0", "", "x"]), source.choice(["default", ""])],
        "joined": ["j", "default"],
        "args": [["application/x-msgpack", source.choice([b"\x01", b"", b"\xc1"])], ["text/odd", b""]][: source.randrange(3)],
        "errback": ["failed", source.choice([b"", b"\x96"]), b""],
        "inbox": "somebody",
    }
    return {key: made[key] for key in source.sample(sorted(made), source.randrange(1, 4))}


@pytest.mark.parametrize("broker", ["memory", "sqlite", "redis"])
def test_no_damaged_workflow_stops_a_worker(broker: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    url = {"memory": f"memory://{secrets.token_hex(4)}", "sqlite": f"sqlite:///{tmp_path / 'fastq.db'}"}.get(broker)
    url = url or str(request.getfixturevalue("redis_url"))
    app = FastQ("damaged", broker=url, backend=url, task_default_rate_limit="100000/s", set_as_current=False)

    @app.task(name="damaged.add")
    def add(*args: Any) -> int:
        return len(args)

    @app.task(name="damaged.fail")
    def fail(*args: Any) -> None:
        raise ValueError("no")

    @app.task(name="damaged.again", bind=True, max_retries=1)
    def again(self: Any, *args: Any) -> None:
        raise self.retry(countdown=0)

    messages = []
    for i in range(MESSAGES):
        following = {key: junk(source) for key in source.sample(FLOW, source.randrange(1, 4))}
        options: dict[str, Any] = {"flow": following if i % 2 else shaped(source)}
        options |= {key: junk(source) for key in source.sample(OPTIONS, source.randrange(3))}
        name = source.choice(["damaged.add", "damaged.fail", "damaged.again"])
        messages.append(_core.encode(f"m{i}", name, "application/x-msgpack", BODY, 1, None, 0, None, options))
    inspector = open_inspector(url, app.transport_options())
    with app:
        app.open_broker().publish("sender", 1, [Publication("default", message) for message in messages])
        with start_worker(app):
            eventually(lambda: not any(inspector.depth("default")[kind] for kind in ("ready", "leased", "delayed")), "all settled")
            assert add.delay(1).get(timeout=20) == 1
        assert inspector.depth("default")["dead"] > MESSAGES // 10, "the damaged ones are dead letters"
        assert not [letter for letter in inspector.dead("default", limit=MESSAGES) if letter.reason == "internal-error"]
    inspector.close()
