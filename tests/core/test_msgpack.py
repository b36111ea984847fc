"""MessagePack of the core: the same bytes as the reference implementation, and nothing but DecodeError for anything else."""

from __future__ import annotations

import enum
import random
from collections import OrderedDict, defaultdict, namedtuple
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq._core import packb, unpackb
from fastq.exceptions import DecodeError, EncodeError

from .runs import plain


@given(plain)
def test_packs_the_same_bytes_as_msgpack(value: Any) -> None:
    assert packb(value) == msgpack.packb(value)


@given(plain)
def test_what_is_packed_is_read_back(value: Any) -> None:
    assert unpackb(packb(value)) == value


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_length_form_is_written_and_read(size: int) -> None:
    for value in ("a" * size, b"a" * size, list(range(size)), {i: i for i in range(size)}):
        packed = packb(value)
        assert packed == msgpack.packb(value)
        assert unpackb(packed) == value


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_integer_form_is_written_and_read(bits: int) -> None:
    for value in (2**bits - 1, 2**bits - 2, -(2 ** (bits - 1)), -(2 ** (bits - 1)) + 1):
        assert packb(value) == msgpack.packb(value)
        assert unpackb(packb(value)) == value


def test_single_precision_floats_of_other_writers_are_read() -> None:
    assert unpackb(msgpack.packb(1.5, use_single_float=True)) == 1.5


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**100])
def test_integers_outside_64_bits_are_refused(value: int) -> None:
    with pytest.raises(EncodeError, match="64"):
        packb(value)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(EncodeError, match="Unicode"):
        packb(["fine", "\ud800"])


def nested(depth: int, make: Any) -> Any:
    value: Any = None
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize("make", [lambda v: [v], lambda v: {"k": v}])
def test_nesting_is_bounded_on_both_sides(make: Any) -> None:
    assert unpackb(packb(nested(128, make))) == nested(128, make)
    with pytest.raises(EncodeError, match="nested deeper than 128"):
        packb(nested(129, make))
    with pytest.raises(DecodeError, match="nested deeper than 128"):
        unpackb(msgpack.packb(nested(129, make)))


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="nested"):
        packb(value)


def test_subclasses_are_written_as_their_base_and_buffers_as_bytes() -> None:
    class Colour(enum.IntEnum):
        RED = 3

    class Name(str):
        pass

    counts: defaultdict[str, int] = defaultdict(int, {"a": 1})
    ordered = OrderedDict([("a", 1), ("b", 2)])
    ordered.move_to_end("a")
    value = [Colour.RED, Name("n"), counts, bytearray(b"x"), memoryview(b"y"), ordered]
    assert unpackb(packb(value)) == [3, "n", {"a": 1}, b"x", b"y", {"b": 2, "a": 1}]
    assert list(unpackb(packb(ordered))) == ["b", "a"]


def test_tuples_are_lists_without_a_hook_and_go_through_it_with_one() -> None:
    assert unpackb(packb((1, (2, 3)))) == [1, [2, 3]]
    asked: list[object] = []

    def default(obj: object) -> object:
        asked.append(obj)
        return msgpack.ExtType(1, packb(list(obj), default))  # type: ignore[call-overload]

    def ext_hook(code: int, data: bytes) -> object:
        assert code == 1
        return tuple(unpackb(data, ext_hook))

    Point = namedtuple("Point", "x y")
    assert unpackb(packb([(1, (2, ())), Point(1, 2)], default), ext_hook) == [(1, (2, ())), (1, 2)]
    assert (2, ()) in asked


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 8, 16, 17, 255, 256, 65535, 65536])
@pytest.mark.parametrize("code", [-128, -1, 0, 127])
def test_extension_types_are_written_and_read(size: int, code: int) -> None:
    wanted = msgpack.ExtType(code, b"x" * size) if code >= 0 else None

    class Ext:
        pass

    ext = Ext()
    ext.code, ext.data = code, b"x" * size  # type: ignore[attr-defined]
    packed = packb(object(), lambda obj: ext)
    if wanted is not None:
        assert packed == msgpack.packb(wanted)
    assert unpackb(packed, lambda c, d: (c, d)) == (code, b"x" * size)


def test_a_hook_may_answer_with_a_plain_value() -> None:
    assert unpackb(packb({1, 2}, sorted)) == [1, 2]  # type: ignore[arg-type]


def test_hooks_that_fail_are_reported_as_encode_and_decode_errors() -> None:
    def broken(*args: object) -> object:
        raise ZeroDivisionError("oh")

    with pytest.raises(EncodeError, match=r"set.*oh") as encode_error:
        packb({1}, broken)
    assert isinstance(encode_error.value.__cause__, ZeroDivisionError)
    with pytest.raises(DecodeError, match="oh") as decode_error:
        unpackb(msgpack.packb(msgpack.ExtType(5, b"")), broken)
    assert isinstance(decode_error.value.__cause__, ZeroDivisionError)
    with pytest.raises(EncodeError, match="type set"):
        packb({1}, lambda obj: obj)
    with pytest.raises(EncodeError, match="nested"):
        packb({1}, lambda obj: object())
    with pytest.raises(EncodeError, match="code"):
        packb({1}, lambda obj: msgpack.ExtType(1, b"")._replace(code=300))


def test_a_hook_that_calls_itself_without_end_is_an_encode_error() -> None:
    def default(obj: object) -> object:
        return msgpack.ExtType(1, packb([(obj,)], default))

    with pytest.raises(EncodeError):
        packb((1,), default)


def test_an_object_without_a_hook_is_refused_by_its_type() -> None:
    with pytest.raises(EncodeError, match=r"random\.Random"):
        packb({"a": [random.Random(1)]})


def test_containers_that_change_while_they_are_written_are_refused() -> None:
    grows: list[Any] = [object()]
    shrinks: list[Any] = [object(), 1, 2]
    dictionary: dict[Any, Any] = {1: object(), 2: 2}

    with pytest.raises(EncodeError, match="changed"):
        packb(grows, lambda obj: grows.append(1))
    with pytest.raises(EncodeError, match="changed"):
        packb(shrinks, lambda obj: shrinks.clear())
    with pytest.raises(EncodeError, match="changed"):
        packb(dictionary, lambda obj: dictionary.clear())
    dictionary.update({1: object(), 2: 2})
    with pytest.raises(EncodeError, match="changed"):
        packb(dictionary, lambda obj: dictionary.update({i: i for i in range(100)}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends inside"),
        (b"\xc1", "0xc1"),
        (b"\x01\x01", "1 bytes are left"),
        (b"\xd9\x05abc", "ends inside"),
        (b"\xa2\xff\xff", "UTF-8"),
        (b"\xdd\xff\xff\xff\xff", "claims"),
        (b"\xdf\xff\xff\xff\xff\x00", "claims"),
        (b"\xc6\xff\xff\xff\xff", "ends inside"),
        (b"\x81\x90\x01", "key"),
        (b"\xd4\x01\x00", "extension type 1"),
    ],
)
def test_bad_data_is_a_decode_error_that_says_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        unpackb(data)


def test_nested_containers_cannot_claim_the_same_bytes_twice() -> None:
    """Each list of a nest could claim all bytes that are left, and so ask for depth times as much memory as was sent."""
    inner = b"\x00" * 100
    data = b"\xdc\x00\x60" + b"\xdc\x00\x60" + inner
    with pytest.raises(DecodeError, match="claims"):
        unpackb(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_a_decode_error(data: bytes) -> None:
    for hook in (None, lambda code, payload: (code, payload)):
        with suppress(DecodeError):
            unpackb(data, hook)


def test_anything_but_bytes_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        unpackb("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        unpackb(None)  # type: ignore[arg-type]
