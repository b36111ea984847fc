"""Gathering a batch's results by time slot and by inbox."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from fastq._core import DONE, RETURN, Settlement, gather_results, new_id


def places(data: bytes) -> list[int]:
    numbers = array("H")
    numbers.frombytes(data)
    return numbers.tolist()


def settlement(id: str, result: bytes | None, inbox: str = "") -> Settlement:
    return Settlement("q", "0:1:0", id, DONE if result is not None else RETURN, result=result, inbox=inbox)


def test_results_of_one_time_slot_stand_together() -> None:
    early, late, same = new_id(0x0193_0000_0000), new_id(0x0193_0000_1000), new_id(0x0193_0000_0FFF)
    batch = [settlement(early, b"a"), settlement(late, b"b"), settlement(same, b"c"), settlement("own", b"d")]
    batch.append(settlement(early, None))
    groups, inboxes = gather_results(batch, 4096)
    assert [(slot, name, places(owners), values) for slot, name, owners, values in groups] == [
        (True, early[:10], [0, 2], [early, b"a", same, b"c"]),
        (True, late[:10], [1], [late, b"b"]),
        (False, "own", [3], ["own", b"d"]),
    ]
    assert inboxes == []


def test_large_records_are_announced_without_their_bytes() -> None:
    batch = [settlement("a", b"x" * 10, "one"), settlement("b", b"x" * 11, "one"), settlement("c", b"", "two")]
    batch.append(settlement("d", b"y"))
    _, inboxes = gather_results(batch, 10)
    assert [(name, places(owners), notices) for name, owners, notices in inboxes] == [
        ("one", [0, 1], ["a", b"x" * 10, "b", None]),
        ("two", [2], ["c", b""]),
    ]


IDS, RECORDS = st.text(min_size=1, max_size=40), st.one_of(st.none(), st.binary(max_size=8))
INBOXES = st.sampled_from(["", "i", "j"])


@given(st.lists(st.tuples(IDS, RECORDS, INBOXES)))
def test_nothing_is_lost_or_invented(items: list[tuple[str, bytes | None, str]]) -> None:
    groups, inboxes = gather_results([settlement(id, result, inbox) for id, result, inbox in items], 4)
    found = {
        place: (values[2 * i], values[2 * i + 1]) for _, _, owners, values in groups for i, place in enumerate(places(owners))
    }
    assert found == {i: (id, result) for i, (id, result, _) in enumerate(items) if result is not None}
    told = {(name, place) for name, owners, _ in inboxes for place in places(owners)}
    assert told == {(inbox, i) for i, (_, result, inbox) in enumerate(items) if inbox and result is not None}
