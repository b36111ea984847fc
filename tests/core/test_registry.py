"""The frozen table of tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq._core import Entry, Registry
from fastq.exceptions import AlreadyRegistered, EncodeError

from .runs import deliver, envelope


@given(st.sets(st.text(max_size=30), max_size=60), st.text(max_size=30))
def test_every_entry_is_found_by_name_and_by_the_bytes_of_an_envelope(names: set[str], other: str) -> None:
    entries = [Entry(name, print) for name in sorted(names)]
    registry = Registry(entries)
    assert len(registry) == len(entries)
    assert registry.names() == sorted(names)
    assert [entry.index for entry in entries] == list(range(len(entries)))
    found = deliver(registry, *[envelope(entry.name) for entry in entries])
    for entry, d in zip(entries, found, strict=True):
        assert registry.get(entry.name) is entry
        assert entry.name in registry
        if entry.name:
            assert d.entry is entry
    if other not in names:
        assert registry.get(other) is None
        assert other not in registry
        assert deliver(registry, envelope(other))[0].entry is None


def test_a_late_registration_keeps_the_indexes_of_old_entries() -> None:
    old = [Entry("a", print), Entry("b", print)]
    Registry(old)
    new = Entry("0", print)
    Registry([new, *reversed(old)])
    assert [e.index for e in (*old, new)] == [0, 1, 2]


def test_entries_of_two_registries_get_indexes_of_their_own_when_joined() -> None:
    one, two = Entry("a", print), Entry("b", print)
    Registry([one])
    Registry([two])
    Registry([one, two])
    assert one.index != two.index


def test_two_functions_cannot_have_one_name() -> None:
    entry = Entry("a", print)
    assert len(Registry([entry, entry])) == 1
    with pytest.raises(AlreadyRegistered, match="'a'"):
        Registry([entry, Entry("a", len)])


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(TypeError, match="Entry"):
        Registry([5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="callable"):
        Entry("a", 5)  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="Unicode"):
        Entry("\ud800", print)
    with pytest.raises(AttributeError):
        Entry("a", print).name = "b"  # type: ignore[misc]


def test_an_entry_keeps_what_it_is_given() -> None:
    task = object()
    entry = Entry("a", print, task, is_async=True, ignore_result=True, track_started=True, acks_late=False)
    assert (entry.name, entry.fn, entry.task) == ("a", print, task)
    assert (entry.is_async, entry.ignore_result, entry.track_started, entry.acks_late, entry.index) == (True, True, True, False, -1)
    bare = Entry("b", print)
    assert (bare.task, bare.is_async, bare.ignore_result, bare.track_started, bare.acks_late) == (None, False, False, False, True)
