"""Envelope v1: what is written is read, and arbitrary bytes give the documented error."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq._core import Delivery, Entry, Registry, encode, encode_call, peek, remark, task_id
from fastq.exceptions import EncodeError, EnvelopeError

from .runs import MSGPACK, deliver, envelope, ids, int64, plain, text

EMPTY = Registry([])


@given(
    id=ids,
    name=text,
    content_type=text | st.just(MSGPACK) | st.just("application/json"),
    body=st.binary(max_size=400),
    enqueued_ms=int64,
    expires_ms=st.none() | int64,
    retries=int64,
    inbox=st.none() | text,
    options=st.none() | st.dictionaries(text, plain, max_size=5),
)
def test_encode_then_peek_is_the_identity_for_every_field(
    id: str,
    name: str,
    content_type: str,
    body: bytes,
    enqueued_ms: int,
    expires_ms: int | None,
    retries: int,
    inbox: str | None,
    options: dict[str, Any] | None,
) -> None:
    message = encode(id, name, content_type, body, enqueued_ms, expires_ms, retries, inbox, options)
    d = peek(message)
    assert d.message is message
    assert (d.id, d.name, d.content_type, d.body) == (id, name, content_type, body)
    assert (d.enqueued_ms, d.expires_ms, d.retries) == (enqueued_ms, expires_ms or 0, retries)
    assert (d.inbox, d.options) == (inbox or "", options)
    assert (d.deliveries, d.paid, d.error, d.record, d.entry) == (0, False, "", -1, None)
    assert task_id(message) == id
    assert msgpack.unpackb(message, strict_map_key=False) == [
        id, name, content_type, body, enqueued_ms, expires_ms or None, retries, inbox or None, options,
    ]  # fmt: skip


def test_the_id_stands_where_a_script_slices_it() -> None:
    message = envelope(id="short")
    assert message[:3] == b"\x99\xd9\x05"
    assert message[3:8] == b"short"


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65535, 65536, 1 << 20])
def test_every_length_of_name_and_body_is_written_and_read(size: int) -> None:
    d = peek(encode("i", "n" * size, "c" * size, b"b" * size, 0, None, 0, "x" * size, {"k": "v" * size}))
    assert (d.name, d.content_type, d.body, d.inbox) == ("n" * size, "c" * size, b"b" * size, "x" * size)
    assert d.options == {"k": "v" * size}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "i" * 256),
        ("id", "ä" * 128),
        ("id", "\ud800"),
        ("id", 5),
        ("name", "\udfff"),
        ("name", None),
        ("content_type", "\ud800"),
        ("content_type", b"x"),
        ("body", "text"),
        ("body", bytearray(b"x")),
        ("enqueued_ms", 2**63),
        ("enqueued_ms", 1.5),
        ("expires_ms", -(2**63) - 1),
        ("expires_ms", "soon"),
        ("retries", None),
        ("inbox", "\ud800"),
        ("inbox", 5),
        ("options", {"a": object()}),
        ("options", {"a": "\ud800"}),
        ("options", {"a": 2**64}),
        ("options", 5),
    ],
)
def test_what_cannot_be_written_is_an_encode_error_that_names_the_field(field: str, value: Any) -> None:
    fields: dict[str, Any] = {
        "id": "i", "name": "n", "content_type": MSGPACK, "body": b"", "enqueued_ms": 0, "expires_ms": None, "retries": 0,
        "inbox": None, "options": None,
    }  # fmt: skip
    with pytest.raises(EncodeError, match=f"envelope field {field}"):
        encode(**{**fields, field: value})


def test_readers_ignore_trailing_elements_of_a_later_version() -> None:
    fields = msgpack.unpackb(envelope(options={"a": [1]}))
    for more in (1, 6):
        message = bytearray(msgpack.packb([*fields, *[{"new": [msgpack.ExtType(9, b"x")]}] * more]))
        d = peek(bytes(message))
        assert (d.name, d.options) == ("tasks.add", {"a": [1]})
        with pytest.raises(EnvelopeError):
            peek(bytes(message[:-1]))


@given(st.integers(0, 127), st.booleans())
def test_a_redelivery_mark_is_set_replaced_and_removed(deliveries: int, paid: bool) -> None:
    message = envelope()
    marked = remark(message, deliveries, paid)
    d = peek(marked)
    assert (d.deliveries, d.paid, d.id) == (deliveries, paid, peek(message).id)
    assert d.message == marked
    assert task_id(marked) == d.id
    assert remark(marked, 5, True) == remark(message, 5, True)
    assert remark(marked, 0) == message


def test_marks_are_bounded_and_stand_before_any_bytes() -> None:
    assert peek(remark(envelope(), 1000)).deliveries == 127
    assert remark(b"", 1) == b"\xc1\x01"
    assert remark(b"\xc1", 1) == b"\xc1\x01\xc1"
    with pytest.raises(ValueError, match="-1"):
        remark(envelope(), -1)


def test_a_batch_is_read_with_its_entries() -> None:
    entry = Entry("tasks.add", print, ignore_result=True)
    registry = Registry([entry, Entry("tasks.other", print)])
    one, two, three = deliver(registry, envelope(inbox="me"), envelope("tasks.unknown", inbox="me"), envelope(inbox="you"))
    assert (one.queue, one.tag, two.tag) == ("default", "0:1:0", "0:1:1")
    assert one.entry is entry
    assert one.name is entry.name
    assert (one.inbox, two.inbox, three.inbox) == ("me", "me", "you")
    assert two.entry is None
    assert two.name == "tasks.unknown"
    assert (one.ignore_result, two.ignore_result) == (True, False)


@pytest.mark.parametrize(("option", "entry_says", "wanted"), [(True, False, True), (False, True, False), (None, True, True)])
def test_the_call_may_overrule_ignore_result(option: bool | None, entry_says: bool, wanted: bool) -> None:
    registry = Registry([Entry("tasks.add", print, ignore_result=entry_says)])
    (d,) = deliver(registry, envelope(options={"ignore_result": option}))
    assert d.ignore_result is wanted


def test_a_bad_message_in_a_batch_says_what_is_wrong_and_keeps_what_can_be_read() -> None:
    registry = Registry([Entry("tasks.add", print)])
    good = envelope()
    cut = good[:-20]
    one, two, three, four = deliver(registry, b"", b"\xc1\x02rubbish", cut, good)
    assert "not an envelope" in one.error
    assert (one.id, one.name, one.entry, one.inbox, one.body, one.options) == ("", "", None, "", b"", None)
    assert (two.deliveries, two.id) == (2, "")
    assert two.error
    assert three.id == four.id
    assert three.name == "tasks.add"
    assert three.error
    assert four.error == ""


@pytest.mark.parametrize(
    ("index", "value", "says"),
    [
        (1, 5, "name is of the wrong type"),
        (2, None, "content_type is of the wrong type"),
        (3, "text", "body is of the wrong type"),
        (4, None, "enqueued_ms is of the wrong type"),
        (4, 2**64 - 1, "enqueued_ms is of the wrong type"),
        (5, "x", "expires_ms is of the wrong type"),
        (6, 1.5, "retries is of the wrong type"),
        (7, 1, "inbox is of the wrong type"),
        (8, [], "options is of the wrong type"),
        (8, {"a": msgpack.ExtType(3, b"")}, "options: extension type 3"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(index: int, value: Any, says: str) -> None:
    fields = msgpack.unpackb(envelope())
    fields[index] = value
    with pytest.raises(EnvelopeError, match=says):
        peek(msgpack.packb(fields))


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"abcdefghijk\xe4bc"])
def test_text_that_is_not_utf8_is_refused_at_once(bad: bytes) -> None:
    for place in range(4):
        texts = [b"id", b"name", b"type", b"inbox"]
        texts[place] = bad
        packed = [bytes([0xD9, len(t)]) + t for t in texts]
        message = b"\x99" + b"".join(packed[:3]) + b"\xc4\x00" + b"\x00\xc0\x00" + packed[3] + b"\xc0"
        with pytest.raises(EnvelopeError, match="UTF-8"):
            peek(message)
        (d,) = deliver(EMPTY, message)
        assert "UTF-8" in d.error


@given(st.binary(max_size=60))
def test_utf8_is_judged_as_python_judges_it(raw: bytes) -> None:
    message = b"\x99\xd9\x01i\xd9" + bytes([len(raw)]) + raw + b"\xa0\xc4\x00\x00\xc0\x00\xc0\xc0"
    try:
        wanted = raw.decode()
    except UnicodeDecodeError:
        with pytest.raises(EnvelopeError, match="UTF-8"):
            peek(message)
    else:
        assert peek(message).name == wanted


def look(d: Delivery) -> None:
    """Use everything that a delivery shows."""
    assert isinstance(d.id, str)
    assert isinstance(d.name + d.content_type + d.inbox + d.error + repr(d), str)
    assert isinstance(d.body, bytes)
    assert d.options is None or isinstance(d.options, dict)
    assert d.ignore_result in (True, False)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_do_more_than_raise_the_documented_error(data: bytes) -> None:
    for message in (data, b"\x99\xd9" + data, b"\xc1\x01\x99\xd9\x02id" + data):
        for read in (peek, task_id):
            with suppress(EnvelopeError):
                read(message)
        (d,) = deliver(EMPTY, message)
        look(d)


def test_mutated_envelopes_never_do_more_than_raise_the_documented_error() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    valid = [
        envelope(args=(1, "two", [3.0, None]), kwargs={"k": b"v"}, inbox="inbox", options={"headers": {"a": [1, {"b": "ü"}]}}),
        remark(envelope(id="ü" * 100, options={"ignore_result": True, "n": [[[[]]]]}), 3, True),
        envelope("tasks.long" * 30, body=b"x" * 300),
    ]
    registry = Registry([Entry("tasks.add", print)])
    refused = 0
    for _ in range(20_000):
        message = bytearray(rng.choice(valid))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(message) + 1)
            kind = rng.randrange(4)
            if kind == 0 and at < len(message):
                message[at] = rng.randrange(256)
            elif kind == 1:
                del message[at:]
            elif kind == 2:
                message.insert(at, rng.choice((0xC0, 0xC1, 0xDD, 0xDF, 0xC6, 0xDB, 0xFF, 0x90, 0x80)))
            elif at < len(message):
                message[at] ^= 1 << rng.randrange(8)
            if not message:
                break
        mutated = bytes(message)
        (d,) = deliver(registry, mutated)
        look(d)
        try:
            read = peek(mutated)
        except EnvelopeError as error:
            assert d.error == str(error)
            refused += 1
        else:
            assert d.error == ""
            assert (read.id, read.name, read.body) == (d.id, d.name, d.body)
    assert 0 < refused < 20_000


def test_deliveries_are_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="peek"):
        Delivery()
    with pytest.raises(AttributeError):
        peek(envelope()).id = "other"  # type: ignore[misc]


def test_tags_and_messages_must_match() -> None:
    with pytest.raises(ValueError, match="1 tags for 2 messages"):
        _core.deliveries("q", ["1"], [b"", b""], EMPTY)
    with pytest.raises(TypeError):
        _core.deliveries("q", ["1"], ["text"], EMPTY)  # type: ignore[list-item]


@given(st.lists(plain, max_size=4), st.dictionaries(text, plain, max_size=4))
def test_a_call_is_args_and_kwargs(args: list[Any], kwargs: dict[str, Any]) -> None:
    wanted = msgpack.packb([args, kwargs])
    assert encode_call(args, kwargs) == wanted
    assert encode_call(tuple(args), kwargs) == wanted


def test_tuples_inside_arguments_go_through_the_hook_and_the_arguments_themselves_do_not() -> None:
    def default(obj: object) -> object:
        return msgpack.ExtType(1, b"t")

    stand_in = msgpack.ExtType(1, b"t")
    assert encode_call((1, (2,)), {"k": (3,)}, default) == msgpack.packb([[1, stand_in], {"k": stand_in}])
    assert encode_call([1, (2,)], {}, default) == encode_call((1, (2,)), {}, default)


def test_keyword_names_are_text() -> None:
    with pytest.raises(EncodeError, match="keyword"):
        encode_call((), {5: 1})  # type: ignore[dict-item]
