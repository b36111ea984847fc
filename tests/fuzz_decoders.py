"""Mutate what may come over the wire, and see that every decoder answers with a value or with its own error.

    python tests/fuzz_decoders.py --inputs 1000000 [--seed 7]

Exit code 0 if no decoder crashed, hung or raised anything else; the seed is printed, so that a failure can be repeated.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from fastq import _core, compression, flow
from fastq.exceptions import ContentDisallowed, DecodeError, SecurityError
from fastq.remote import decode_exception, encode_exception
from fastq.security import make_signer
from fastq.serialization import Serializers, ext_hook
from fastq.worker.station import Request

#: one input that takes longer than this is a hang, s: orders of magnitude above what any takes
HANG_S = 10.0

_serializers = Serializers(accept=("msgpack", "json", "yaml"))
_signer = make_signer("a secret for the fuzz of decoders")
assert _signer is not None

_VALUES: tuple[Any, ...] = (
    [1, "two", 3.5, None, True, b"bytes", {"a": [1, 2, {"b": "c"}]}],
    {"at": datetime(2026, 1, 2, tzinfo=UTC), "day": date(2026, 1, 2), "span": timedelta(1, 2, 3), "n": Decimal("1.50")},
    [UUID(int=5), {1, 2}, (1, (2, 3)), frozenset("ab")],
    "text " * 50,
    list(range(300)),
)


def _nodes() -> list[bytes]:
    leaf = flow.leaf("id", "tasks.add", "default", 3, "application/x-msgpack", b"\x92\x91\x01\x80", timing=(1, 0, 5, 0))
    body = flow.leaf("body", "tasks.sum", "default", 0, "application/json", b"[[],{}]", options={"headers": {"a": 1}})
    chord = flow.chord("join", "default", [leaf, leaf], body)
    return [leaf, flow.group("g", [leaf, leaf]), chord, flow.chain([leaf, chord, leaf])]


def _envelopes() -> Iterator[bytes]:
    leaf, *others = _nodes()
    options: tuple[dict[str, Any] | None, ...] = (
        None,
        {"priority": 3, "headers": {"h": [1, 2]}, "root_id": "r"},
        {"flow": {"chain": [leaf, *others], "links": [leaf], "errbacks": [leaf], "join": ["j", "0", "q"], "limits": [1.5, None]}},
    )
    for which, value in enumerate(_VALUES):
        content_type, body = _serializers.dumps(("msgpack", "json")[which % 2], [[value], {"k": value}])
        message = _core.encode(f"id-{which}", "tasks.add", content_type, body, 1, 2, 3, "inbox", options[which % 3])
        yield message
        yield _core.remark(message, 2, True)
        yield _signer.sign(message)  # type: ignore[union-attr]


_registry = _core.Registry([_core.Entry("tasks.add", print)])


def read_envelope(data: bytes) -> None:
    (d,) = _core.deliveries("q", ["0:1:0"], [data], _registry)
    repr(d)
    if d.error:
        return
    if d.flow is not None:
        flow.check(d.flow)
        record = _core.encode_result("SUCCESS", "application/x-msgpack", b"\x01", None, 1, None)
        flow.succeeded(d, ("application/x-msgpack", b"\x01"), record, 5)
        flow.failed(d, record, 5)
    _serializers.loads(d.content_type, d.body)


def read_node(data: bytes) -> None:
    list(flow.ids(data))
    flow.begin(data, flow.Place(5))


def read_result(data: bytes) -> None:
    state, content_type, body, traceback, _, _ = _core.decode_result(data)
    if state == "FAILURE":
        decode_exception(content_type, body, traceback, _serializers)
    else:
        _serializers.loads_result(content_type, body)


def _records() -> Iterator[bytes]:
    for value in _VALUES:
        yield _core.encode_result("SUCCESS", *_serializers.dumps("msgpack", value), None, 5, {"children": [[["id", None], None]]})
    for error in (ValueError("x", 1), OSError(2, "no such file", "name"), KeyError("k")):
        content_type, body, trace = encode_exception(error, _serializers)
        yield _core.encode_result("FAILURE", content_type, body, trace, 5, None)


def _bodies(name: str) -> list[bytes]:
    return [_serializers.dumps(name, value)[1] for value in (_VALUES if name != "yaml" else _VALUES[:1])]


def read_request(data: bytes) -> None:
    Request.read(data).concerns("w1@host")


def _requests() -> list[bytes]:
    values = {"method": "ping", "arguments": {"n": 1}, "destination": ["w1@host"], "reply_to": "r", "ticket": "t", "expires_ms": 5}
    return [_core.packb(values), _core.packb({**values, "destination": None, "pattern": "(a+)+$", "matcher": "pcre"})]


def _check(data: bytes) -> None:
    _signer.check(data)  # type: ignore[union-attr]


#: what is fuzzed: decoder, good inputs to start from, errors it may raise, share of the inputs
TARGETS: dict[str, tuple[Callable[[bytes], object], list[bytes], tuple[type[Exception], ...], int]] = {
    "envelope": (read_envelope, list(_envelopes()), (DecodeError, ContentDisallowed), 30),
    "msgpack": (lambda data: _core.unpackb(data, ext_hook), _bodies("msgpack"), (DecodeError,), 30),
    "json": (lambda data: _serializers.loads("application/json", data), _bodies("json"), (DecodeError,), 10),
    "yaml": (lambda data: _serializers.loads("application/x-yaml", data), _bodies("yaml"), (DecodeError,), 1),
    "result": (read_result, list(_records()), (DecodeError, ContentDisallowed, SecurityError), 15),
    "node": (read_node, _nodes(), (DecodeError,), 10),
    "control request": (read_request, _requests(), (ValueError,), 5),
    "sealed request": (_signer.unseal, [_signer.seal(request) for request in _requests()], (SecurityError,), 2),
    "signature": (_check, [_signer.sign(message) for message in _envelopes()], (SecurityError,), 5),
    **{
        f"compression {codec}": (
            lambda data, codec=codec: compression.decompress(codec, data),  # type: ignore[misc]
            [compression.compress(codec, b"some text " * 100)],
            (DecodeError,),
            1,
        )
        for codec in ("zlib", "gzip", "bz2", "lzma")
    },
}


def mutate(random: random.Random, data: bytes) -> bytes:
    """Change a good input a little or a lot."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(out) + 1)
        kind = random.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << random.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = random.choice((0x00, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC6, 0xC9, 0xDB, 0xDD, 0xDF, 0xFF))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + random.randrange(1, 8)]
        elif kind == 4:
            out[at:at] = random.randbytes(random.randrange(1, 8))
        elif kind == 5:
            out[at:at] = out[at : at + random.randrange(1, 64)]
        else:
            out += random.randbytes(random.randrange(1, 16))
    return bytes(out)


def fuzz(seed: int, inputs: int, say: Callable[[str], object] = print) -> list[str]:
    """Feed mutated inputs to every decoder; return what went wrong."""
    source = random.Random(seed)
    names = list(TARGETS)
    weights = [TARGETS[name][3] for name in names]
    counts = dict.fromkeys(names, 0)
    refused = dict.fromkeys(names, 0)
    wrong: list[str] = []
    for _ in range(inputs):
        (name,) = source.choices(names, weights)
        decoder, good, errors, _ = TARGETS[name]
        data = mutate(source, source.choice(good))
        counts[name] += 1
        started = time.monotonic()
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            decoder(data)
        except errors:
            refused[name] += 1
        except Exception as exc:
            wrong.append(f"{name}: {type(exc).__name__}: {exc} for {data.hex()}")
            if len(wrong) >= 20:
                break
        faulthandler.cancel_dump_traceback_later()
        if time.monotonic() - started > HANG_S / 2:
            wrong.append(f"{name}: {time.monotonic() - started:.1f} s for {data.hex()}")
    for name in names:
        say(f"{name:20} {counts[name]:>9} inputs, {refused[name]:>9} refused")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    started = time.monotonic()
    wrong = fuzz(options.seed, options.inputs)
    print(f"{options.inputs} inputs in {time.monotonic() - started:.0f} s: {len(wrong)} wrong answers")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
