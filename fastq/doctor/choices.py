"""Settings with which something can go wrong. Only those: what is a matter of taste is not mentioned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastq.transports.base import Finding

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["choices"]

#: seconds; a shorter lease takes a busy or paused machine for dead
SHORT_LEASE_S = 5
#: seconds; with a longer one the tasks of a dead node wait for more than ten minutes
LONG_LEASE_S = 300
#: seconds; a chord's body may be slower than this to start
SHORT_RESULTS_S = 60


def choices(app: FastQ) -> Iterator[Finding]:
    """Judge an application's settings."""
    conf = app.conf
    lease_s = conf.worker_lease
    if lease_s < SHORT_LEASE_S:
        yield Finding(
            "warning",
            "short-lease",
            "worker_lease",
            f"it is {lease_s:g} s: a worker that is paused or cut off for {lease_s * 1.2:g} s is taken for dead, and its tasks run "
            "again elsewhere",
            f"set it to {SHORT_LEASE_S} s or more, unless in tests (the default is 15)",
        )
    elif lease_s > LONG_LEASE_S:
        yield Finding(
            "note",
            "long-lease",
            "worker_lease",
            f"it is {lease_s:g} s: the tasks of a dead machine run again after up to {2 * lease_s / 60:.0f} minutes",
            "set it lower: a lease says that a process lives, not how long a task may take",
        )
    if app.keeps_results and not conf.result_expires:
        yield Finding(
            "note",
            "results-kept-for-ever",
            "result_expires",
            "results never expire, so the store grows with each task",
            "set result_expires, or let tasks keep no result (ignore_result), or forget() those that were read",
        )
    elif app.keeps_results and conf.result_expires < SHORT_RESULTS_S:
        yield Finding(
            "warning",
            "short-results",
            "result_expires",
            f"results are kept for {conf.result_expires:g} s: who asks later waits for ever",
            f"set it to {SHORT_RESULTS_S} s or more; forget() drops results that were read",
        )
    if not conf.task_acks_late:
        yield Finding(
            "note",
            "early-acks",
            "task_acks_late",
            "it is off: a task whose process dies is not run again, but becomes a dead letter",
            "nothing, if tasks must not run twice; else take the setting out",
        )
    yield from _security(app)
    if "visibility_timeout" in conf.broker_transport_options:
        yield Finding(
            "note",
            "meaningless-setting",
            "broker_transport_options",
            "visibility_timeout means nothing here: a task may run for as long as its process lives",
            "take it out; worker_lease says how soon a dead node's tasks run elsewhere",
        )


def _security(app: FastQ) -> Iterator[Finding]:
    conf = app.conf
    accepted = {str(name).lower() for name in conf.accept_content or ()}
    if accepted & {"pickle", "application/x-python-serialize"} and not conf.security_key:
        yield Finding(
            "warning",
            "pickle-accepted",
            "accept_content",
            "pickle is accepted and messages are not signed: whoever can write to the broker can run any code in the workers",
            "take pickle out, or set security_key, so that only signed messages are read",
        )
    if conf.security_trusted_keys and not conf.security_key:
        yield Finding(
            "error",
            "no-signing-key",
            "security_key",
            "security_trusted_keys is set and security_key is not: workers refuse to start, for they sign what they send",
            "give workers and producers a security_key of their own",
        )
