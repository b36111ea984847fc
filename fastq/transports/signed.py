"""A Broker and a Timetable that sign whatever is sent through them: one place for producers, workers and supervisors alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastq.records import RETRY, Effects, Fetch, Opening, Publication, Settled, Settlement

if TYPE_CHECKING:
    from fastq.security import Signer
    from fastq.transports.base import Broker
    from fastq.transports.timetable import Tick, Timetable

__all__ = ["SignedBroker", "SignedTimetable"]


class SignedBroker:
    """Put signatures on messages, and leave everything else to the broker behind it (see ``fastq.security``).

    What comes out of ``fetch`` is not judged here: that is the worker's gate, which can settle what it refuses.
    """

    def __init__(self, broker: Broker, signer: Signer) -> None:
        self._broker = broker
        self._signer = signer
        self.url = broker.url

    @property
    def __class__(self) -> type:  # a result backend asks what kind of broker this is, to see whether they share a store
        return type(self._broker)

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("the class of a SignedBroker cannot be changed")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def publish(
        self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()
    ) -> None:
        """Publish, signed. A repeated call has the same signatures: both kinds are deterministic."""
        self._broker.publish(producer, number, self._signed(publications), self._opened(openings))

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        """Settle; retries and follow-ups are signed, in place, so that a repeat finds them so."""
        for settlement in settlements:
            if settlement.verdict == RETRY and settlement.message is not None:
                settlement.message = self._sign(settlement.message)
            effects: Effects | None = settlement.effects
            if effects is not None and (effects.publications or effects.openings):
                settlement.effects = effects._replace(
                    publications=self._signed(effects.publications), openings=self._opened(effects.openings)
                )
        return self._broker.settle(process, settlements, results=results, fetch=fetch)

    def _signed(self, publications: Sequence[Publication]) -> list[Publication]:
        return [publication._replace(message=self._sign(publication.message)) for publication in publications]

    def _opened(self, openings: Sequence[Opening]) -> list[Opening]:
        return [
            opening._replace(body=opening.body._replace(message=self._sign(opening.body.message))) for opening in openings
        ]

    def _sign(self, message: bytes) -> bytes:
        """Sign a message behind its redelivery mark, which brokers write and nobody signs."""
        if message[:1] == b"\xc1":
            return message[:2] + self._signer.sign(message[2:])
        return self._signer.sign(message)


class SignedTimetable:
    """Put signatures on the messages of ticks, and leave everything else to the timetable behind it."""

    def __init__(self, timetable: Timetable, signer: Signer) -> None:
        self._timetable = timetable
        self._signer = signer
        self.url = timetable.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timetable, name)

    def fire(self, by: str, ticks: Sequence[Tick]) -> list[bool]:
        """Fire ticks with signed messages."""
        sign = self._signer.sign
        return self._timetable.fire(
            by,
            [
                tick._replace(publications=[one._replace(message=sign(one.message)) for one in tick.publications])
                for tick in ticks
            ],
        )
