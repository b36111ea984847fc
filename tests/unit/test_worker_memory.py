"""What a process says of its memory."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from fastq.worker.memory import Memory, resident_kib


def test_the_resident_set_grows_by_what_is_allocated() -> None:
    before = resident_kib()
    block = b"x" * (32 << 20)
    grown = resident_kib() - before
    assert 30 << 10 <= grown <= 40 << 10, grown
    assert len(block) == 32 << 20


def test_a_process_is_over_a_limit_below_its_resident_set() -> None:
    kib = resident_kib()
    assert Memory(kib // 2).over() and not Memory(kib * 2).over()


def test_no_limit_is_nothing_to_look_at() -> None:
    assert Memory.of(None) is None
    limited = Memory.of(1000)
    assert limited is not None and limited.limit_kib == 1000


def test_where_there_is_no_proc_the_peak_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def without_proc(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(path)
        return real(path, *args, **kwargs)

    now = resident_kib()
    monkeypatch.setattr(builtins, "open", without_proc)
    assert resident_kib() >= now * 0.9
