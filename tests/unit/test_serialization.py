"""What is sent is what arrives, and what cannot be sent is named."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core, compression, serialization
from fastq.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from fastq.formats import own
from fastq.serialization import JSON, MSGPACK, PICKLE, Serializers, blame, default, ext_hook

ALL = ("msgpack", "json", "yaml", "pickle")

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
moments = (
    st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashable = st.recursive(plain | moments, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    plain | moments | hashable | st.sets(hashable, max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(values)
def test_msgpack_gives_back_what_it_was_given(value: Any) -> None:
    back = _core.unpackb(_core.packb(value, default), ext_hook)
    assert back == value
    assert type(back) is type(value)


def test_msgpack_keeps_the_types_of_nested_values() -> None:
    value = {"a": (1, [2, (3,)], {4, 5}, frozenset([6])), "b": timedelta(days=-1, microseconds=1), "c": Decimal("1.50")}
    serializers = Serializers()
    content_type, body = serializers.dumps("msgpack", value)
    assert content_type == MSGPACK
    back = serializers.loads(content_type, body)
    assert back == value
    assert type(back["a"]) is tuple and type(back["a"][1][1]) is tuple and type(back["a"][3]) is frozenset
    assert str(back["c"]) == "1.50"


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_moments_keep_their_instant_and_their_zone(name: str) -> None:
    serializers = Serializers()
    for moment in (
        datetime(2024, 7, 1, 12, 30, 15, 123456),
        datetime(2024, 7, 1, 12, tzinfo=UTC),
        datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Paris")),
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
        date(2024, 2, 29),
        time(23, 59, 59, 1),
    ):
        back = serializers.loads(*serializers.dumps(name, moment))
        assert back == moment
        if isinstance(moment, datetime):
            assert back.utcoffset() == moment.utcoffset()
            if isinstance(moment.tzinfo, ZoneInfo):
                # a day later across a change of clocks is the same with both
                assert back.tzinfo is moment.tzinfo


def test_a_zone_unknown_here_keeps_the_instant() -> None:
    data = b"2024-07-01T12:00:00+02:00[Nowhere/Atlantis]"
    assert ext_hook(4, data) == datetime(2024, 7, 1, 10, tzinfo=UTC)


def test_json_keeps_what_json_has_no_type_for() -> None:
    value = {
        "d": Decimal("0.1"),
        "u": UUID(int=5),
        "s": {1, 2},
        "f": frozenset(["x"]),
        "b": b"\x00\xff",
        "t": timedelta(seconds=1.5),
        "n": None,
        "umlaut": "ü",
    }
    serializers = Serializers()
    content_type, body = serializers.dumps("json", value)
    assert content_type == JSON
    assert serializers.loads(content_type, body) == value
    assert serializers.loads(*serializers.dumps("json", {"__type__": "nonsense", "__value__": 1})) == {
        "__type__": "nonsense",
        "__value__": 1,
    }


class Color(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


Point = namedtuple("Point", "x y")


def test_subclasses_of_plain_types_travel_as_the_plain_type() -> None:
    for value, expected in (
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (bytearray(b"x"), b"x"),
        (memoryview(b"y"), b"y"),
    ):
        back = _core.unpackb(_core.packb([value], default), ext_hook)[0]
        assert back == expected
        assert type(back) is type(expected)


def test_pickle_and_yaml_are_refused_unless_named() -> None:
    serializers = Serializers()
    for content_type in (PICKLE, "application/x-yaml", "text/plain"):
        with pytest.raises(ContentDisallowed, match="accept_content allows json, msgpack"):
            serializers.loads(content_type, b"")
    trusting = Serializers(accept=["pickle"], task="pickle", result="pickle")
    assert trusting.loads(*trusting.dumps("pickle", {1: object})) == {1: object}
    with pytest.raises(ContentDisallowed):
        trusting.loads(MSGPACK, b"\x90")


def test_yaml_works_when_named_and_says_what_it_needs() -> None:
    serializers = Serializers(accept=["yaml"], task="yaml", result="yaml")
    if importlib.util.find_spec("yaml") is None:
        with pytest.raises(ImproperlyConfigured, match="pip install pyyaml"):
            serializers.dumps("yaml", [1])
    else:
        assert serializers.loads(*serializers.dumps("yaml", [1, {"a": "ü"}])) == [1, {"a": "ü"}]


def test_a_serializer_nobody_reads_is_an_error_at_start() -> None:
    with pytest.raises(ImproperlyConfigured, match="task_serializer = 'pickle' is not in accept_content"):
        Serializers(task="pickle")
    with pytest.raises(ImproperlyConfigured, match="result_serializer = 'json' is not in result_accept_content"):
        Serializers(result="json", result_accept=["msgpack"])
    with pytest.raises(ImproperlyConfigured, match="unknown serializer 'mspack'"):
        Serializers(accept=["mspack"])


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_damaged_bodies_are_decode_errors(name: str) -> None:
    serializers = Serializers()
    content_type, body = serializers.dumps(name, [[1, 2], {"a": "b"}])
    for damaged in (body[:-1], b"", b"\xc1" + body, body + b"\x00\x00"):
        with pytest.raises(DecodeError):
            serializers.loads(content_type, damaged)


@given(st.integers(-128, 127), st.binary(max_size=40))
def test_any_extension_is_a_value_or_a_decode_error(code: int, data: bytes) -> None:
    with suppress(DecodeError):
        ext_hook(code, data)


class Opaque:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_what_cannot_be_written_is_found(name: str) -> None:
    serializers = Serializers()
    value = Opaque()
    with pytest.raises(EncodeError):
        serializers.dumps(name, [1, {"a": (2, value)}])
    assert blame(serializers, name, [1, {"a": (2, value)}], "x") == ("x[1]['a'][1]", value)
    assert blame(serializers, name, [1, {"a": 2}], "x") is None
    assert blame(serializers, name, {"k": {1, 2}}, "x") is None


def test_what_contains_itself_is_an_encode_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    serializers = Serializers(accept=["msgpack", "json", "pickle"])
    for name in ("msgpack", "json"):
        with pytest.raises(EncodeError):
            serializers.dumps(name, loop)
        with pytest.raises(EncodeError):
            serializers.dumps(name, {"a": (loop,)})
    assert sys.getrecursionlimit() > 100


@pytest.mark.parametrize("codec", compression.available())
def test_compressed_bodies_say_so_and_come_back(codec: str) -> None:
    serializers = Serializers()
    value = ["x" * 5000, {"a": 1}]
    content_type, body = serializers.dumps("msgpack", value, compress=codec)
    assert content_type == f"{MSGPACK};{codec}"
    assert len(body) < 1000
    assert serializers.accepts(content_type)
    assert serializers.loads(content_type, body) == value
    with pytest.raises(DecodeError, match=codec):
        serializers.loads(content_type, b"nonsense")


def test_unknown_compression_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match="unknown compression 'zip'"):
        compression.codec("zip")
    assert compression.codec("GZ") == "gzip"
    with pytest.raises(ContentDisallowed):
        Serializers().loads(f"{MSGPACK};rot13", b"")


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents


class Tip(Money):
    pass


class Described:
    def __json__(self) -> Any:
        return {"a": 1}


@pytest.fixture
def money(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "writers", {})
    monkeypatch.setattr(own, "readers", {})
    serialization.register_type(Money, "money", lambda m: m.cents, Money)


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_a_registered_type_comes_back_also_nested_and_as_its_subclass(name: str, money: None) -> None:
    serializers = Serializers()
    value = [Money(5), {"tip": Tip(7)}]
    assert serializers.loads(*serializers.dumps(name, value)) == [Money(5), {"tip": Money(7)}]


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_a_class_that_describes_itself_is_sent_as_that(name: str) -> None:
    serializers = Serializers()
    assert serializers.loads(*serializers.dumps(name, [Described()])) == [{"a": 1}]


def test_a_type_not_registered_where_it_is_read_is_named(money: None, monkeypatch: pytest.MonkeyPatch) -> None:
    serializers = Serializers()
    written = serializers.dumps("msgpack", Money(1))
    monkeypatch.setattr(own, "readers", {})
    with pytest.raises(DecodeError, match="'money' is not registered here"):
        serializers.loads(*written)


def test_a_type_cannot_take_a_built_in_name() -> None:
    with pytest.raises(ValueError, match="uuid"):
        serialization.register_type(Money, "uuid", repr, Money)
    with pytest.raises(TypeError):
        serialization.register_type(5, "five", repr, Money)  # type: ignore[arg-type]


@pytest.fixture
def upper() -> Iterator[str]:
    serialization.register("upper", lambda value: json.dumps(value).upper(), lambda text: json.loads(text.lower()), "text/upper")
    yield "upper"
    serialization.unregister("upper")


def test_a_registered_serializer_writes_and_reads_where_it_is_named(upper: str) -> None:
    serializers = Serializers(task=upper, accept=[upper, "msgpack"])
    content_type, body = serializers.dumps(upper, [["a"], {"b": 1}])
    assert (content_type, body) == ("text/upper", b'[["A"], {"B": 1}]')
    assert serializers.loads(content_type, body) == [["a"], {"b": 1}]
    with pytest.raises(ContentDisallowed):
        Serializers().loads(content_type, body)
    with pytest.raises(DecodeError, match="not upper"):
        serializers.loads(content_type, b"[")


def test_a_built_in_serializer_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="built-in"):
        serialization.register("json", repr, repr, "text/own")
    with pytest.raises(ValueError, match="built-in"):
        serialization.register("own", repr, repr, JSON)
    with pytest.raises(ValueError, match="built-in"):
        serialization.unregister("pickle")


def test_an_unregistered_serializer_is_unknown(upper: str) -> None:
    serialization.unregister(upper)
    serialization.unregister(upper)
    with pytest.raises(ImproperlyConfigured, match="unknown serializer 'upper'"):
        Serializers(accept=[upper])
