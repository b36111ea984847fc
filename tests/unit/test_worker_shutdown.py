"""What a signal means."""

from __future__ import annotations

from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM

import pytest

from fastq.exceptions import ImproperlyConfigured
from fastq.worker.shutdown import Shutdown, Stage, term_is_quit


def made(*, soft_s: float = 0.0, on_idle: bool = False, remap: bool = False) -> Shutdown:
    shutdown = Shutdown(remap=remap)
    shutdown.soft_s, shutdown.soft_on_idle = soft_s, on_idle
    return shutdown


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGHUP])
def test_first_is_warm_second_is_cold_third_kills(signum: int) -> None:
    shutdown = made()
    assert [shutdown.signal(signum, 1.0 * i) for i in range(4)] == [Stage.WARM, Stage.COLD, Stage.KILL, None]


def test_quit_is_cold_at_once() -> None:
    shutdown = made()
    assert shutdown.signal(SIGQUIT, 0.0) is Stage.COLD
    assert shutdown.exit_code == 1


def test_a_key_pressed_twice_in_an_instant_is_two_requests() -> None:
    shutdown = made()
    assert [shutdown.signal(SIGINT, 0.1 * i) for i in range(3)] == [Stage.WARM, Stage.COLD, Stage.KILL]


@pytest.mark.parametrize("first", [SIGTERM, SIGINT, SIGHUP])
def test_what_a_process_manager_passes_on_within_an_instant_is_one_request(first: int) -> None:
    """^C reaches the worker directly, and as TERM through the manager; docker stop reaches an init process that passes TERM on."""
    shutdown = made()
    assert shutdown.signal(first, 0.0) is Stage.WARM
    assert shutdown.signal(SIGTERM, 0.1) is None
    assert shutdown.signal(SIGTERM, 0.4) is None
    assert shutdown.exit_code == 0
    assert shutdown.signal(SIGTERM, 3.0) is Stage.COLD


def test_quit_is_never_taken_for_a_repetition() -> None:
    shutdown = made()
    assert [shutdown.signal(n, 0.0) for n in (SIGTERM, SIGQUIT, SIGQUIT)] == [Stage.WARM, Stage.COLD, Stage.KILL]


def test_warm_exits_0_and_cold_exits_1() -> None:
    shutdown = made()
    assert shutdown.exit_code == 0
    shutdown.signal(SIGTERM, 0.0)
    assert shutdown.exit_code == 0
    shutdown.signal(SIGTERM, 1.0)
    assert shutdown.exit_code == 1


def test_stages_never_go_back() -> None:
    shutdown = made()
    assert shutdown.move(Stage.COLD) is Stage.COLD
    assert shutdown.move(Stage.WARM) is None
    assert shutdown.stage is Stage.COLD


def test_with_a_timeout_a_cold_stop_is_soft_first() -> None:
    shutdown = made(soft_s=10)
    assert [shutdown.signal(SIGQUIT, float(i)) for i in range(4)] == [Stage.SOFT, Stage.COLD, Stage.KILL, None]
    shutdown = made(soft_s=10)
    assert [shutdown.signal(SIGINT, float(i)) for i in range(4)] == [Stage.WARM, Stage.SOFT, Stage.COLD, Stage.KILL]


def test_a_soft_stop_exits_1_as_the_cold_one_that_was_asked_for() -> None:
    shutdown = made(soft_s=10)
    shutdown.signal(SIGQUIT, 0.0)
    assert shutdown.exit_code == 1


@pytest.mark.parametrize(("on_idle", "stage"), [(False, Stage.COLD), (True, Stage.SOFT)])
def test_with_nothing_running_a_stop_is_soft_only_if_that_is_wanted(on_idle: bool, stage: Stage) -> None:
    assert made(soft_s=10, on_idle=on_idle).signal(SIGQUIT, 0.0, busy=False) is stage
    assert made(soft_s=0, on_idle=on_idle).signal(SIGQUIT, 0.0, busy=False) is Stage.COLD


def test_remapped_term_is_quit_and_twice_within_an_instant_it_is_one() -> None:
    shutdown = made(soft_s=10, remap=True)
    assert [shutdown.signal(SIGTERM, at) for at in (0.0, 0.1, 2.0)] == [Stage.SOFT, None, Stage.COLD]
    assert made(remap=True).signal(SIGTERM, 0.0) is Stage.COLD
    assert made(remap=True).signal(SIGINT, 0.0) is Stage.WARM


def test_the_environment_remaps_term_as_in_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", False), ("SIGTERM", False), ("SIGQUIT", True)):
        monkeypatch.setenv("REMAP_SIGTERM", value)
        assert term_is_quit() is expected
    monkeypatch.setenv("REMAP_SIGTERM", "QUIT")
    with pytest.raises(ImproperlyConfigured, match="REMAP_SIGTERM is 'QUIT'"):
        term_is_quit()
