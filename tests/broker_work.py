"""What producers and worker processes do to a broker: publish, fetch and settle, once, twice, late. Rules of ``broker_machine``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from fastq import _core
from fastq.exceptions import Fenced
from fastq.records import DEAD, DONE, RETRY, RETURN, Effects, Fetch, Fetched, Publication, Settled, Settlement
from fastq.transports import Broker
from tests.broker_model import (
    LAST,
    MOST,
    PROCESSES,
    QUEUES,
    Leasehold,
    Model,
    Process,
    Producer,
    index,
    is_last,
    verdicts,
)
from tests.broker_stores import HOUR_MS, View

__all__ = ["Work"]


class Work(Model):
    """Rules."""

    # --- producers ---

    @rule(
        who=index,
        what=st.lists(st.tuples(st.sampled_from(QUEUES), st.sampled_from([0, 0, 0, 5, 9])), min_size=2, max_size=8),
        hours=st.sampled_from([0, 0, 0, 1, 2]),
        absolute=st.booleans(),
        deaths=st.sampled_from([0, 0, 0, 1, LAST]),
        bulk=st.sampled_from([1, 1, 1, 4]),
        again=st.booleans(),
    )
    def publish(
        self, who: int, what: list[tuple[str, int]], hours: int, absolute: bool, deaths: int, bulk: int, again: bool
    ) -> None:
        if any(self.waiting(queue) + 8 * 4 > MOST for queue in QUEUES):
            return
        producer = self.producers[who % len(self.producers)]
        broker = self.nodes[0]
        publications = []
        now_ms = broker.now_ms()
        for queue, level in what * bulk:
            message, place = self.message(deaths)
            delay_ms = self.delay_ms(hours, place)
            due = absolute and hours > 0
            publications.append(Publication(queue, message, level, 0 if due else delay_ms, now_ms + delay_ms if due else 0))
            self.put(queue, level, hours, place, message)
        producer.number += 1
        producer.sent.append((producer.number, publications))
        broker.publish(producer.name, producer.number, publications)
        if again:
            self.nodes[1].publish(producer.name, producer.number, publications)

    @precondition(lambda self: any(len(producer.sent) > 1 for producer in self.producers))
    @rule(who=index, which=index)
    def publish_late(self, who: int, which: int) -> None:
        """Let the original of a call arrive that was repeated, and followed by others."""
        if not any(producer.sent for producer in self.producers):
            return
        producer = [producer for producer in self.producers if producer.sent][who % sum(bool(p.sent) for p in self.producers)]
        number, publications = producer.sent[which % len(producer.sent)]
        self.nodes[which % 2].publish(producer.name, number, publications)

    def fork(self, who: int, which: int) -> None:
        self.producers[who % len(self.producers)] = Producer(f"producer {next(self.counter)}")

    def message(self, deaths: int = 0) -> tuple[bytes, int]:
        """Return a new message, and its place among those that fall due in the same hour."""
        place = next(self.counter)
        message = _core.encode(f"task {place}", "task", "application/x-msgpack", b"\x92\x90\x80", 0, None, 0, None, None)
        return (_core.remark(message, deaths, False) if deaths else message), place

    def delay_ms(self, hours: int, place: int) -> int:
        """Return a delay in the middle of an hour: the places are 500 ms apart, further than clocks are read wrongly."""
        return hours * HOUR_MS - HOUR_MS // 2 + 500 * place if hours else 0

    def put(self, queue: str, level: int, hours: int, place: int, message: bytes) -> None:
        if hours:
            self.delayed[queue].append((self.hours + hours, place, level, message))
            self.delayed[queue].sort()
        else:
            self.ready[queue].setdefault(level, []).append(message)

    def waiting(self, queue: str) -> int:
        return sum(map(len, self.ready[queue].values())) + len(self.delayed[queue])

    # --- worker processes ---

    @precondition(lambda self: sum(p.running for p in self.processes) < PROCESSES)
    @rule(node=st.integers(0, 1), queues=st.sampled_from([QUEUES, ("q",), ("other",)]))
    def start_process(self, node: int, queues: tuple[str, ...]) -> None:
        self.start(node, queues)

    def ask(self, process: Process, n: int, idle: bool, spare: bool) -> Fetch:
        process.number += 1
        holds_last = any(is_last(held.message) for queue in process.queues for held in self.held(queue, process).values())
        process.last = Fetch(process.name, process.number, process.queues, n, idle, spare or holds_last)
        return process.last

    @precondition(lambda self: self.running())
    @rule(
        who=index,
        n=st.sampled_from([1, 1, 2, 5, 50, 0]),
        idle=st.sampled_from([True, True, False]),
        spare=st.sampled_from([False, False, True]),
        again=st.booleans(),
    )
    def fetch(self, who: int, n: int, idle: bool, spare: bool, again: bool) -> None:
        process = self.pick(who)
        fetch = self.ask(process, n, idle, spare)
        self.fetched(process, fetch, lambda: process.broker.fetch(fetch))
        if again and process.running:
            self.repeat(process)

    @precondition(lambda self: any(not self.order(queue) for queue in QUEUES) and self.running())
    @rule(who=index)
    def fall_asleep(self, who: int) -> None:
        """Leave a process that waits for a wake, if there is one that has nothing to take."""
        able = [process for process in self.running() if not process.idle and not any(map(self.order, process.queues))]
        if able:
            process = able[who % len(able)]
            fetch = self.ask(process, 50, True, False)
            self.fetched(process, fetch, lambda: process.broker.fetch(fetch))

    def fetched(self, process: Process, fetch: Fetch, call: Callable[[], Fetched]) -> None:
        """Make a call that fetches, and check what was leased."""
        refused = process.condemned
        process.woken = False
        try:
            answer = call()
        except Fenced:
            assert refused, f"{process.name} was refused, and its leases are good"
            process.fenced = True
            answer = None
        else:
            assert not refused or self.store.stepwise, f"{process.name} was not refused on {refused}"
        view = self.store.view(QUEUES)
        self.promoted(view, process.queues)
        turn = fetch.number % len(fetch.queues)
        left, given = fetch.n, {}
        for queue in fetch.queues[turn:] + fetch.queues[:turn]:
            mine = self.held(queue, process)
            new = {tag: message for tag, message in view.leased.get((queue, process.name), {}).items() if tag not in mine}
            if left <= 0 or (answer is None and (not self.store.stepwise or queue in refused)):
                assert not new, f"{len(new)} messages of {queue} were leased where none could be"
                if answer is None:
                    break
                continue
            alone = self.check_share(process, fetch, queue, list(new.values()), left, first=not given)
            if new:
                given[queue] = new
                left = 0 if alone else left - len(new)
            for tag, message in new.items():
                level = next(level for level, messages in self.ready[queue].items() if message in messages)
                self.ready[queue][level].remove(message)
                self.leased.setdefault((queue, process.name), {})[tag] = Leasehold(level, message, fetch.number)
                process.ever.append((queue, tag, _core.task_id(message)))
        if answer is None:
            # The wake that made it look is lost until its deliveries are released, or until the next renewal.
            self.doubt.update(process.queues)
            process.woken = True
            process.wake.close()
            return
        process.idle, process.due_ms, process.spare = (), 0, False
        assert {one.queue: dict(zip(one.tags, one.messages, strict=True)) for one in answer.leased} == given
        assert [tag for one in answer.leased for tag in one.tags] == [tag for one in answer.leased for tag in given[one.queue]], (
            "in the order in which they were leased"
        )
        assert answer.revocations >= self.revocation
        if not given and fetch.idle and fetch.n > 0:
            process.idle, process.due_ms, process.spare = process.queues, answer.next_due_ms, fetch.no_last_chance
        else:
            # of a queue it came to before it found something: it is of no interest then
            assert answer.next_due_ms == 0 or self.store.stepwise, "only who waits keeps the time"

    def check_share(self, process: Process, fetch: Fetch, queue: str, new: list[bytes], left: int, *, first: bool) -> bool:
        """Check what a fetch took from one queue; True if it is on its last chance."""
        order = self.order(queue)
        if order and is_last(order[0]) and first and not fetch.no_last_chance:
            assert new == order[:1], "a message on its last chance is leased alone, in its turn"
            return True
        assert not any(map(is_last, new)), "a message on its last chance was leased with others, or to one who may take none"
        takeable = [message for message in order if not is_last(message)]
        others = [one for one in self.processes if one is not process and queue in one.idle]
        # On Redis what a call gives back has woken others before the same call fetches, and who was woken is not idle.
        certain = 0 if self.settling and self.store.stepwise else sum(one.running and not one.woken for one in others)
        least, most = (min(left, -(-len(order) // (idle + 1)), len(takeable)) for idle in (len(others), certain))
        assert least <= len(new) <= most, f"{len(new)} taken of {len(order)} in {queue}, {certain} to {len(others)} others are idle"
        assert new == takeable[: len(new)], "most urgent first, then oldest first"
        return False

    def order(self, queue: str) -> list[bytes]:
        return [message for level in sorted(self.ready[queue], reverse=True) for message in self.ready[queue][level]]

    def promoted(self, view: View, certain: Sequence[str] = ()) -> None:
        """Move what is due in the model as far as the store has moved it. All of a queue moves at once."""
        for queue, delayed in self.delayed.items():
            due = [one for one in delayed if one[0] <= self.hours]
            still = {message for _, _, message in view.delayed[queue]}
            gone = [one for one in due if one[3] not in still]
            assert gone == due or not gone, "half of what is due was promoted"
            for _, _, level, message in gone:
                self.ready[queue].setdefault(level, []).append(message)
            self.delayed[queue] = [one for one in delayed if one not in gone]

    def held(self, queue: str, process: Process) -> dict[str, Leasehold]:
        return self.leased.get((queue, process.name), {})

    def repeat(self, process: Process) -> None:
        """Make the last fetch again, as after a lost reply."""
        assert process.last is not None
        if process.condemned:
            return
        fetch = process.last
        due_ms = process.due_ms
        answer = process.broker.fetch(fetch)
        for queue in process.queues:
            expected = {tag: one.message for tag, one in self.held(queue, process).items() if one.number == fetch.number}
            found = [dict(zip(one.tags, one.messages, strict=True)) for one in answer.leased if one.queue == queue]
            assert found == ([expected] if expected else []), "a repeat returns what the call leased"
            if found:
                assert list(found[0]) == list(expected)
        # Who has repeated a call fetches anew before it sleeps.
        process.due_ms = answer.next_due_ms or due_ms
        process.woken = process.woken or bool(process.idle)
        self.promoted(self.store.view(QUEUES))

    def repeat_fetch(self, who: int, which: int) -> None:
        process = self.pick(who)
        last = process.last
        if last is None or (process.idle and not last.idle):
            return
        ever = [one for one in process.ever if int(one[1].split(":")[1]) == last.number] if self.store.name != "sqlite" else []
        if len(ever) < last.n and self.store.stepwise and any(tag not in self.held(queue, process) for queue, tag, _ in ever):
            return  # part of it has been settled: nobody repeats that call
        if self.store.stepwise and not all(tag in self.held(queue, process) for queue, tag, _ in ever):
            return
        self.repeat(process)

    def fetch_late(self, who: int, which: int) -> None:
        """Let the original of an older call arrive: nobody reads its answer."""
        process = self.pick(who)
        number = process.number - 1 - which % 3
        if number < 1 or process.condemned:
            return
        queues = process.queues
        first = queues[number % len(queues)]
        answer = process.broker.fetch(Fetch(process.name, number, (first,), 1 + which % 2 * 49, False))
        assert not answer.leased
        self.promoted(self.store.view(QUEUES))

    # --- settling ---

    def settlement(self, process: Process, one: tuple[str, str, str], verdict: int, hours: int, **what: Any) -> Settlement:
        queue, tag, id = one
        if verdict == RETRY:
            message, place = self.message()
            what.update(message=message, delay_ms=self.delay_ms(hours, place), level=[0, 5][place % 2])
        if verdict != RETURN:
            state = {DONE: "SUCCESS", DEAD: "FAILURE", RETRY: "RETRY"}[verdict]
            body = f"{id} {next(self.counter)}".encode()
            what["result"] = _core.encode_result(state, "application/x-msgpack", body, None, 0, None)
        return Settlement(queue, tag, id, verdict, reason="failed" if verdict == DEAD else "", **what)

    def holding(self) -> list[Process]:
        return [process for process in self.processes if any(self.held(queue, process) for queue in process.queues)]

    @precondition(lambda self: self.holding())
    @rule(who=index, ends=verdicts, most=st.integers(1, 5), hours=st.sampled_from([0, 1]))
    def settle_held(self, who: int, ends: list[int], most: int, hours: int) -> None:
        """Settle some of what a process holds; a supervisor does so for a dead one."""
        holding = self.holding()
        process = holding[who % len(holding)]
        held = [one for one in process.ever if one[1] in self.held(one[0], process)][-most:]
        batch = [self.settlement(process, one, ends[at % len(ends)], hours) for at, one in enumerate(held)]
        self.settled(process, batch, self.nodes[process.node])

    @precondition(lambda self: self.running())
    @rule(who=index, n=st.sampled_from([1, 3, 50]), ends=verdicts, follow=st.booleans())
    def work(self, who: int, n: int, ends: list[int], follow: bool) -> None:
        """Settle all that is held and fetch, in one call, as a busy worker does."""
        process = self.pick(who)
        held = [one for one in process.ever if one[1] in self.held(one[0], process)]
        batch = [self.settlement(process, one, ends[at % len(ends)], 0) for at, one in enumerate(held)]
        if follow and batch and batch[0].verdict != RETURN:
            batch[0].effects = Effects(publications=[Publication(batch[0].queue, self.message()[0], 5)])
        self.settled(process, batch, process.broker, fetch=self.ask(process, n, True, False))

    @precondition(lambda self: any(p.ever for p in self.processes))
    @rule(
        who=index,
        which=st.lists(index, min_size=1, max_size=5),
        ends=verdicts,
        hours=st.sampled_from([0, 0, 1]),
        results=st.sampled_from([True, True, False]),
        follow=st.booleans(),
        again=st.booleans(),
        own=st.booleans(),
        n=st.sampled_from([None, None, 1, 5, 50]),
    )
    def settle(
        self,
        who: int,
        which: list[int],
        ends: list[int],
        hours: int,
        results: bool,
        follow: bool,
        again: bool,
        own: bool,
        n: int | None,
    ) -> None:
        """Settle deliveries of a process: held or not, its own connection or its supervisor's, alone or with a fetch."""
        able = [process for process in self.processes if process.ever]
        process = able[who % len(able)]
        # the newest first: those are held, most of them
        chosen = list(dict.fromkeys(process.ever[-1 - at % len(process.ever)] for at in which))
        chosen.sort(key=process.ever.index)
        batch = [self.settlement(process, one, ends[at % len(ends)], hours) for at, one in enumerate(chosen)]
        if follow and batch[0].verdict != RETURN:
            message, _ = self.message()
            batch[0].effects = Effects(publications=[Publication(batch[0].queue, message, 5)])
        broker = process.broker if own else self.nodes[process.node]
        fetch = self.ask(process, n, True, False) if n is not None and own and process.running else None
        # what this very call settles is not held any more when it fetches, but the worker cannot know that it will be
        self.settled(process, batch, broker, results=results, fetch=fetch)
        if again:
            self.settled(process, batch, broker, results=results)
            if fetch is not None and process.running:
                self.repeat(process)

    def settled(
        self,
        process: Process,
        batch: list[Settlement],
        broker: Broker,
        *,
        results: bool = True,
        fetch: Fetch | None = None,
    ) -> None:
        """Settle, and check that exactly what was held has ended."""
        skipped = tuple(one.tag for one in batch if one.tag not in self.held(one.queue, process))
        lost = {one.id for one in batch if one.tag in skipped}
        self.settle_in_model(process, batch, results)
        answer: Settled | None = None
        if fetch is None:
            answer = broker.settle(process.name, batch, results=results)
        else:

            def call() -> Fetched:
                nonlocal answer
                try:
                    answer = broker.settle(process.name, batch, results=results, fetch=fetch)
                except Fenced as fenced:
                    assert sorted(fenced.skipped) == sorted(skipped)
                    raise
                assert answer.fetched is not None
                return answer.fetched

            self.settling = True
            self.fetched(process, fetch, call)
            self.settling = False
        assert answer is None or sorted(answer.skipped) == sorted(skipped)
        self.check_results({one.id for one in batch} | lost)

    def settle_in_model(self, process: Process, batch: list[Settlement], results: bool) -> None:
        back: dict[tuple[str, int], list[tuple[str, bytes]]] = {}
        after: list[Publication] = []
        letters: dict[str, list[tuple[int, bytes, str]]] = {}
        for one in batch:
            held = self.held(one.queue, process).pop(one.tag, None)
            if held is None:
                continue
            if one.verdict == RETURN:
                back.setdefault((one.queue, held.level), []).append((one.tag, held.message))
            elif one.verdict == RETRY:
                assert one.message is not None
                place = int(_core.task_id(one.message).split()[1])
                self.put(one.queue, one.level, -(-one.delay_ms // HOUR_MS), place, one.message)
            elif one.verdict == DEAD:
                letters.setdefault(one.queue, []).append((held.level, held.message, one.reason))
            if results and one.result is not None:
                self.results[one.id] = ("", one.result)
            if one.effects is not None:
                after += one.effects.publications
        for queue, some in letters.items():
            self.dead[queue] += some
        self.give_back(back)
        for publication in after:
            self.put(publication.queue, publication.level, 0, 0, publication.message)

    def give_back(self, back: dict[tuple[str, int], list[tuple[str, bytes]]]) -> None:
        for (queue, level), items in back.items():
            if self.store.by_age:
                items = sorted(items, key=lambda item: int(item[0]))
            self.ready[queue][level] = [message for _, message in items] + self.ready[queue].get(level, [])

    def check_results(self, ids: set[str]) -> None:
        names = sorted(ids)
        for id, found in zip(names, self.backend.get(names), strict=True):
            state, record = self.results.get(id, ("", None))
            if state:
                assert found is not None and _core.decode_result(found)[0] == state
            else:
                assert found == record, f"the result of {id}"
