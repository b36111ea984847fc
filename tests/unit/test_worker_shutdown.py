"""What a signal means."""

from __future__ import annotations

from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM

import pytest

from fastq.worker.shutdown import Shutdown, Stage


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGHUP])
def test_first_is_warm_second_is_cold_third_kills(signum: int) -> None:
    shutdown = Shutdown()
    assert [shutdown.signal(signum, 0.1 * i) for i in range(4)] == [Stage.WARM, Stage.COLD, Stage.KILL, None]


def test_quit_is_cold_at_once() -> None:
    shutdown = Shutdown()
    assert shutdown.signal(SIGQUIT, 0.0) is Stage.COLD
    assert shutdown.exit_code == 1


def test_interrupt_forwarded_as_term_is_one_request() -> None:
    """A process manager in a terminal: ^C reaches the worker directly, and as TERM through the manager."""
    shutdown = Shutdown()
    assert shutdown.signal(SIGINT, 0.0) is Stage.WARM
    assert shutdown.signal(SIGTERM, 0.1) is None
    assert shutdown.exit_code == 0
    assert shutdown.signal(SIGTERM, 3.0) is Stage.COLD


def test_warm_exits_0_and_cold_exits_1() -> None:
    shutdown = Shutdown()
    assert shutdown.exit_code == 0
    shutdown.signal(SIGTERM, 0.0)
    assert shutdown.exit_code == 0
    shutdown.signal(SIGTERM, 1.0)
    assert shutdown.exit_code == 1


def test_stages_never_go_back() -> None:
    shutdown = Shutdown()
    assert shutdown.move(Stage.COLD) is Stage.COLD
    assert shutdown.move(Stage.WARM) is None
    assert shutdown.stage is Stage.COLD
