"""What an application gets where Django is in use, as far as it shows without Django being set up."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastq import FastQ, Task
from fastq.fixups import FixupWarning, of_environment

TYPED = """
from fastq.contrib.django import shared_task

@shared_task
def add(x: int, y: int) -> int:
    return x + y

@shared_task(bind=True, queue="q")
def bound(self: object, x: int) -> str:
    return ""

reveal_type(add.delay(1, 2).get())
reveal_type(bound.delay(1).get())
reveal_type(add.delay_on_commit(1, 2))
add.apply_async_on_commit((1, 2), countdown=3, using="other")
add.delay_on_commit("x", 2)
bound.delay_on_commit()
"""


def test_without_django_in_the_environment_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    assert of_environment() == []
    assert FastQ(set_as_current=False).Task is Task


def test_django_that_is_named_but_missing_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop.settings")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(FixupWarning, match=r"'shop\.settings', but django is not installed"):
        assert FastQ(set_as_current=False).Task is Task


def test_a_task_class_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Task[..., object]):
        pass

    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop.settings")
    assert FastQ(set_as_current=False, task_cls=Own).Task is Own


def test_settings_that_do_not_exist_are_a_warning_not_the_end(tmp_path: Path) -> None:
    code = """
        import os, warnings
        os.environ["DJANGO_SETTINGS_MODULE"] = "nowhere.settings"
        from fastq import FastQ
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert FastQ("t").conf.timezone is None
        print(*(str(one.message) for one in caught))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert "there is no module 'nowhere'" in done.stdout, done.stdout + done.stderr


def test_types_know_what_is_sent_on_commit(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), "typed.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env={"MYPYPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("typed.py")]
    revealed = [line.partition('"')[2].strip('"') for line in told if "Revealed" in line]
    assert revealed == ["int", "str", "None"], done.stdout
    assert [line.rpartition("[")[2] for line in told if "error:" in line] == ["arg-type]", "call-arg]"], done.stdout
