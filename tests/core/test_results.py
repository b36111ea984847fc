"""Result records and settlements."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import _core
from fastq._core import Settlement, decode_result, encode_result
from fastq.exceptions import DecodeError, EncodeError

from .runs import MSGPACK, int64, plain, text


@given(text, text, st.binary(max_size=300), st.none() | text, int64, st.none() | st.dictionaries(text, plain, max_size=4))
def test_encode_then_decode_is_the_identity(
    state: str, content_type: str, body: bytes, traceback: str | None, done_ms: int, meta: dict[str, Any] | None
) -> None:
    record = encode_result(state, content_type, body, traceback, done_ms, meta)
    assert decode_result(record) == (state, content_type, body, traceback, done_ms, meta)
    assert record == msgpack.packb([state, content_type, body, traceback, done_ms, meta])


def test_readers_ignore_trailing_elements() -> None:
    fields = ["SUCCESS", MSGPACK, b"\xc0", None, 5, None]
    assert decode_result(msgpack.packb([*fields, 1, msgpack.ExtType(5, b"x")])) == tuple(fields)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_decode_error(data: bytes) -> None:
    for record in (data, b"\x96" + data, b"\x96\xa7SUCCESS\xa0\xc4" + data):
        with suppress(DecodeError):
            decode_result(record)


@pytest.mark.parametrize("place", range(6))
def test_a_field_of_the_wrong_type_is_a_decode_error(place: int) -> None:
    fields: list[Any] = ["SUCCESS", MSGPACK, b"", None, 5, None]
    fields[place] = 1.5
    with pytest.raises(DecodeError):
        decode_result(msgpack.packb(fields))


def test_a_traceback_is_stored_whatever_it_holds() -> None:
    record = encode_result("FAILURE", MSGPACK, b"", "bad \ud800 text", 0, None)
    assert decode_result(record)[3] == "bad \\ud800 text"
    with pytest.raises(EncodeError):
        encode_result("\ud800", MSGPACK, b"", None, 0, None)


def test_a_settlement_keeps_what_it_is_given() -> None:
    s = Settlement("q", "t", "i", _core.RETRY, message=b"m", level=3, delay_ms=1000, record=7)
    assert (s.queue, s.tag, s.id, s.verdict, s.record) == ("q", "t", "i", _core.RETRY, 7)
    assert (s.message, s.level, s.delay_ms) == (b"m", 3, 1000)
    assert (s.result, s.inbox, s.reason, s.detail) == (None, "", "", None)
    assert "RETRY" in repr(s)
    s.result = b"r"
    assert s.result == b"r"
    with pytest.raises(ValueError, match="verdict"):
        Settlement("q", "t", "i", 9)
    with pytest.raises(TypeError):
        Settlement("q", "t", "i", _core.DONE, result="text")  # type: ignore[arg-type]
