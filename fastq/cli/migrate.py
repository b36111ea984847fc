"""``fastq migrate``: copy or move messages to another broker.

What is ready is taken under a lease, as a worker takes it, published at the destination and only then settled: killed in between, a
message is there twice at worst, and goes back at the source after two leases. What is delayed is copied; to be moved it is taken
when it is due.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

import click

from fastq import _core
from fastq.cli.context import Settings, app_options, load_app
from fastq.cli.types import Names
from fastq.exceptions import EnvelopeError, ImproperlyConfigured
from fastq.records import DONE, RETURN, Fetch, Lease, Publication, Settlement
from fastq.transports import Broker, TransportOptions, display_url, open_broker, open_inspector
from fastq.transports.base import PARKED_MS
from fastq.worker.followups import level_of
from fastq.worker.identity import Identity

__all__ = ["command"]

#: messages of one call
BATCH = 200
#: seconds between two looks for more, with --forever
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages go, and where to."""

    tasks: frozenset[str]
    #: queue at the source -> at the destination
    queues: dict[str, str]
    limit: int | None
    #: take them away at the source
    move: bool

    def takes(self, message: bytes) -> str:
        """Return why a message stays, "" if it goes."""
        try:
            d = _core.peek(message)
        except EnvelopeError:
            return "unreadable"
        if self.tasks and d.name not in self.tasks:
            return "other tasks"
        flow = (d.options or {}).get("flow") or {}
        return "part of a chord" if "join" in flow or "joined" in flow else ""


@dataclass(slots=True)
class Migration:
    """Carry messages over, queue by queue."""

    source: Broker
    destination: Broker
    wanted: Wanted
    lease_ms: int
    gone: int = 0
    stayed: Counter[str] = field(default_factory=Counter)
    producer: str = field(default_factory=lambda: f"migrate-{os.urandom(8).hex()}")
    number: int = 0

    @property
    def left(self) -> int:
        return BATCH if self.wanted.limit is None else min(BATCH, self.wanted.limit - self.gone)

    def run(self, queue: str) -> None:
        """Carry over what is ready in a queue now."""
        process = Identity(f"migrate@{socket.gethostname()}").new_name(0)
        held: list[Settlement] = []
        call, renewed_s = 0, 0.0
        self.stayed.clear()
        try:
            while self.left > 0:
                if time.monotonic() - renewed_s > self.lease_ms / 3000:
                    self.source.renew([queue], [process], self.lease_ms)
                    renewed_s = time.monotonic()
                call += 1
                fetched = self.source.fetch(Fetch(process, call, (queue,), self.left, idle=False))
                taken = [(tag, m) for leased in fetched.leased for tag, m in zip(leased.tags, leased.messages, strict=True)]
                if not taken:
                    break
                held += self._carry(queue, process, taken)
        finally:
            # what stays goes back to the head of its level, so the last first
            while held:
                self.source.settle(process, held[-BATCH:], results=False)
                del held[-BATCH:]
            self.source.condemn([Lease(queue, process, "")])
            self.source.release(queue, process, {})

    def _carry(self, queue: str, process: str, taken: list[tuple[str, bytes]]) -> list[Settlement]:
        """Publish what goes; return the settlements of what stays, or is only copied."""
        publications: list[Publication] = []
        going: list[str] = []
        staying: list[str] = []
        for tag, message in taken:
            if reason := self.wanted.takes(message):
                self.stayed[reason] += 1
                staying.append(tag)
                continue
            there = self.wanted.queues.get(queue, queue)
            publications.append(Publication(there, _core.remark(message, 0), level_of(_core.peek(message))))
            (going if self.wanted.move else staying).append(tag)
        self.publish(publications)
        if going:
            self.source.settle(process, [Settlement(queue, tag, "", DONE) for tag in going], results=False)
        return [Settlement(queue, tag, "", RETURN) for tag in staying]

    def publish(self, publications: list[Publication]) -> None:
        if publications:
            self.number += 1
            self.destination.publish(self.producer, self.number, publications)
            self.gone += len(publications)

    def copy_delayed(self, queue: str, waiting: list[tuple[int, int, bytes]]) -> None:
        """Copy delayed messages; they are due at the same time there, and those put aside for a pause at once."""
        there = self.wanted.queues.get(queue, queue)
        going = [(due_ms, level, message) for due_ms, level, message in waiting if not self.wanted.takes(message)]
        self.stayed.update(reason for _, _, message in waiting if (reason := self.wanted.takes(message)))
        while going and self.left > 0:
            now, going = going[: self.left], going[self.left :]
            self.publish([
                Publication(there, _core.remark(m, 0), level, due_ms=due_ms if due_ms < PARKED_MS else 0)
                for due_ms, level, m in now
            ])


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...] | None) -> dict[str, str]:
    pairs = {}
    for name in value or ():
        source, _, destination = name.partition(":")
        if not source:
            raise click.BadParameter(f"{name!r}: expected a queue, or SOURCE:DESTINATION.")
        pairs[source] = destination or source
    return pairs


@click.command("migrate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Carry over so many messages at most.")
@click.option("-a", "--ack-messages", is_flag=True, help="Move: take the messages away at the source. Default: copy them.")
@click.option("-T", "--tasks", type=Names(), metavar="A,B", help="Only messages of these tasks.")
@click.option("-Q", "--queues", type=Names(), callback=_pairs, metavar="A,B:C", help="Only these queues; B:C carries B over to C.")
@click.option("-F", "--forever", is_flag=True, help="Go on with what comes in, until it is stopped. Needs -a.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0), metavar="S", help="With -F: stop after so many seconds without any.")
@app_options
def command(
    settings: Settings,
    /,
    source: str,
    destination: str,
    limit: int | None,
    ack_messages: bool,
    tasks: tuple[str, ...] | None,
    queues: dict[str, str],
    forever: bool,
    timeout: float | None,
) -> None:
    """Copy the messages of the broker at URL SOURCE to the one at DESTINATION, or move them (-a).

    Moves what is ready; delayed messages are moved when they are due (-F), a copy takes them at once. Messages of chords stay: what
    counts them stays, too. Results and dead letters are not carried over. Stop the workers of the source first.
    """
    if forever and not ack_messages:
        raise click.UsageError("--forever would copy the same messages again and again: add --ack-messages.")
    if timeout is not None and not forever:
        raise click.UsageError("--timeout says when --forever ends: add --forever.")
    if source == destination:
        raise click.UsageError("SOURCE and DESTINATION are the same broker.")
    options = _options(settings)
    wanted = Wanted(frozenset(tasks or ()), queues, limit, ack_messages)
    inspector = open_inspector(source, options)
    migration = Migration(open_broker(source, options), open_broker(destination, options), wanted, options.lease_ms)
    quiet_since_s = time.monotonic()
    try:
        while True:
            before = migration.gone
            for queue in list(queues) or sorted(inspector.queues()):
                start = migration.gone
                migration.run(queue)
                delayed = inspector.depth(queue)["delayed"]
                if not ack_messages and delayed:
                    migration.copy_delayed(queue, inspector.delayed(queue, delayed))
                stay = [f"{n} stay ({reason})" for reason, n in sorted(migration.stayed.items())]
                if ack_messages and delayed:
                    stay += _waiting(delayed, sum(inspector.parked(queue).values()))
                if queue in migration.source.paused().queues:
                    stay.append(f"the queue is paused: fastq resume -Q {queue}")
                _say(queue, queues.get(queue, queue), migration.gone - start, stay, quiet=forever)
            if migration.gone > before:
                quiet_since_s = time.monotonic()
            over = timeout is not None and time.monotonic() - quiet_since_s >= timeout
            if not forever or migration.left <= 0 or over:
                break
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
    finally:
        for part in (inspector, migration.source, migration.destination):
            part.close()
    done = "Moved" if ack_messages else "Copied"
    click.echo(f"{done} {migration.gone} messages from {display_url(source)} to {display_url(destination)}.")


def _waiting(delayed: int, parked: int) -> list[str]:
    """Say why delayed messages are not moved."""
    said = [f"{delayed - parked} delayed stay until they are due"] if delayed > parked else []
    return [*said, f"{parked} put aside for a pause stay: fastq resume puts them back"] if parked else said


def _say(queue: str, there: str, count: int, stay: list[str], *, quiet: bool) -> None:
    if quiet and not count:
        return
    arrow = queue if queue == there else f"{queue} -> {there}"
    click.echo(f"{arrow}: {', '.join([str(count), *stay])}")


def _options(settings: Settings) -> TransportOptions:
    """Return the application's options (prefix, lease, timeouts), or the defaults where there is no application."""
    try:
        return load_app(settings).transport_options()
    except ImproperlyConfigured:
        if settings.app is not None:
            raise
        return TransportOptions()
