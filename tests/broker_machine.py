"""A state machine that does to a broker, in any order, what producers, workers, supervisors and people do, and knows where each message must be.

Beside the broker stands a model in plain Python: lists of messages per place. Before a call the model says what must come of it, after
it the whole store is compared with the model. The store is read raw (``broker_stores``), so that a message that no call would ever
show again is seen too. What the specification leaves open (how much a fetch takes while others are idle, whether it promotes in
queues that it did not come to) is taken from the store and checked against its bounds.

Delays are whole hours, and time is moved on by hours: real time does not matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastq import _core
from fastq.exceptions import Fenced, OperationalError
from fastq.records import DEAD, DONE, RETRY, RETURN, Effects, Fetch, Fetched, Lease, Publication, Revival, Settled, Settlement
from fastq.transports import Broker, TransportOptions, Wake, open_backend, open_broker, open_inspector
from tests.broker_stores import HOUR_MS, Store, View

__all__ = ["QUEUES", "BrokerMachine"]

QUEUES = ("q", "other")
LEASE_MS = 15_000
#: charges after which the next delivery is the last, with the default of task_max_deliveries
LAST = 2
#: the most messages that wait in one queue, so that all that is due is promoted in one step
MOST = 80
PROCESSES = 6

#: an index into whatever there is to choose from
index = st.integers(0, 11)
verdicts = st.lists(st.sampled_from([DONE, RETRY, DEAD, RETURN]), min_size=1, max_size=5)


@dataclass
class Leasehold:
    """A delivery as the model knows it."""

    level: int
    message: bytes
    number: int


@dataclass
class Process:
    """A worker process, as the model knows it."""

    name: str
    node: int
    queues: tuple[str, ...]
    broker: Broker
    wake: Wake
    number: int = 0
    #: the last call, to be repeated
    last: Fetch | None = None
    #: the queues on which it waits for a wake, and when it wakes by itself (0: it does not)
    idle: tuple[str, ...] = ()
    due_ms: int = 0
    #: it will fetch: it was woken, or its time has come
    woken: bool = False
    spare: bool = False
    #: where its lease was taken away
    condemned: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    killed: bool = False
    #: it was told that it is taken for dead
    fenced: bool = False
    #: every delivery it ever had: queue, tag, id
    ever: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return not self.killed and not self.fenced


@dataclass
class Producer:
    name: str
    number: int = 0
    sent: list[tuple[int, list[Publication]]] = field(default_factory=list)


def charged(message: bytes) -> int:
    return _core.peek(message).deliveries


def is_last(message: bytes) -> bool:
    return charged(message) >= LAST


def bare(message: bytes) -> bytes:
    return message[2:] if message[:1] == b"\xc1" else message


class BrokerMachine(RuleBasedStateMachine):
    """``make`` opens an empty store."""

    def __init__(self, make: Callable[[], Store]) -> None:
        super().__init__()
        self.store = make()
        self.opened: list[Any] = []
        self.counter = itertools.count(1)
        self.hours = 0
        self.inspector = open_inspector(self.store.url, TransportOptions())
        self.backend = open_backend(self.store.url, TransportOptions())
        self.nodes = [self.broker() for _ in range(2)]
        self.opened += [self.inspector, self.backend]
        self.producers = [Producer("producer 0"), Producer("producer 1")]
        self.processes: list[Process] = []
        # where everything must be
        self.ready: dict[str, dict[int, list[bytes]]] = {queue: {} for queue in QUEUES}
        #: (due after so many hours, place, level, message)
        self.delayed: dict[str, list[tuple[int, int, int, bytes]]] = {queue: [] for queue in QUEUES}
        self.leased: dict[tuple[str, str], dict[str, Leasehold]] = {}
        self.dead: dict[str, list[tuple[int, bytes, str]]] = {queue: [] for queue in QUEUES}
        self.results: dict[str, tuple[str, bytes | None]] = {}
        self.revocation = 0
        #: what a node saw of the others' leases
        self.seen: list[dict[tuple[str, str], str]] = [{}, {}]
        #: queues where a wake may be lost until the next renewal: somebody who was to come is dead or fenced
        self.doubt: set[str] = set()

    # --- opening and closing ---

    def broker(self) -> Broker:
        self.opened.append(open_broker(self.store.url, TransportOptions()))
        return self.opened[-1]  # type: ignore[no-any-return]

    def start(self, node: int, queues: tuple[str, ...]) -> Process:
        name = f"node{node}.{next(self.counter)}"
        broker = self.broker()
        wake = broker.wake(name)
        process = Process(name, node, queues, broker, wake)
        self.renew(node, (process,), queues)
        wake.open()
        self.opened.append(wake)
        self.processes.append(process)
        return process

    @initialize(both=st.booleans())
    def begin(self, both: bool) -> None:
        self.start(0, QUEUES)
        self.start(1, QUEUES if both else ("q",))

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            for opened in reversed(self.opened):
                opened.close()
            self.store.close()

    # --- choosing ---

    def running(self) -> list[Process]:
        return [process for process in self.processes if process.running]

    def pick(self, which: int) -> Process:
        running = self.running()
        return running[which % len(running)]

    # --- producers ---

    @rule(
        who=index,
        what=st.lists(st.tuples(st.sampled_from(QUEUES), st.sampled_from([0, 0, 0, 5, 9])), min_size=1, max_size=8),
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

    @precondition(lambda self: any(producer.sent for producer in self.producers))
    @rule(who=index, which=index)
    def publish_late(self, who: int, which: int) -> None:
        """Let the original of a call arrive that was repeated, and followed by others."""
        producer = [producer for producer in self.producers if producer.sent][who % sum(bool(p.sent) for p in self.producers)]
        number, publications = producer.sent[which % len(producer.sent)]
        self.nodes[which % 2].publish(producer.name, number, publications)

    @precondition(lambda self: self.producers)
    @rule(who=index)
    def fork(self, who: int) -> None:
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

    @precondition(lambda self: self.running())
    @rule(who=index)
    def fetch_until_idle(self, who: int) -> None:
        """Leave a process that waits for a wake."""
        process = self.pick(who)
        for _ in range(MOST):
            if process.idle or not process.running:
                break
            fetch = self.ask(process, 50, True, False)
            self.fetched(process, fetch, lambda fetch=fetch: process.broker.fetch(fetch))
            held = [one for one in process.ever if one[1] in self.held(one[0], process)]
            if held:
                self.settled(process, [self.settlement(process, one, DONE, 0) for one in held], process.broker)

    def fetched(self, process: Process, fetch: Fetch, call: Callable[[], Fetched]) -> None:
        """Make a call that fetches, and check what was leased."""
        refused = process.condemned
        process.woken = False
        before = dict(self.leased)
        try:
            answer = call()
        except Fenced:
            assert refused, f"{process.name} was refused, and its leases are good"
            process.fenced = True
            answer = None
        else:
            assert not refused or self.store.stepwise, f"{process.name} was not refused on {refused}"
        del before
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
        process.idle, process.due_ms, process.spare = (), 0, False
        if answer is None:
            self.doubt.update(process.queues)
            return
        assert {one.queue: dict(zip(one.tags, one.messages, strict=True)) for one in answer.leased} == given
        assert [tag for one in answer.leased for tag in one.tags] == [
            tag for one in answer.leased for tag in given[one.queue]
        ], "in the order in which they were leased"
        assert answer.revocations >= self.revocation
        if not given and fetch.idle and fetch.n > 0:
            process.idle, process.due_ms, process.spare = process.queues, answer.next_due_ms, fetch.no_last_chance
        else:
            assert answer.next_due_ms == 0, "only who waits keeps the time"

    def check_share(self, process: Process, fetch: Fetch, queue: str, new: list[bytes], left: int, *, first: bool) -> bool:
        """Check what a fetch took from one queue; True if it is on its last chance."""
        order = self.order(queue)
        if order and is_last(order[0]) and first and not fetch.no_last_chance:
            assert new == order[:1], "a message on its last chance is leased alone, in its turn"
            return True
        assert not any(map(is_last, new)), "a message on its last chance was leased with others, or to one who may take none"
        takeable = [message for message in order if not is_last(message)]
        others = [one for one in self.processes if one is not process and queue in one.idle]
        certain = sum(not one.woken and not one.killed for one in others)
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

    @precondition(lambda self: any(p.last for p in self.running()))
    @rule(who=index)
    def repeat_fetch(self, who: int) -> None:
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

    @precondition(lambda self: any(p.number > 1 for p in self.running()))
    @rule(who=index, back=st.integers(1, 3), n=st.sampled_from([1, 50]))
    def fetch_late(self, who: int, back: int, n: int) -> None:
        """Let the original of an older call arrive: nobody reads its answer."""
        process = self.pick(who)
        number = process.number - back
        if number < 1 or process.condemned:
            return
        queues = process.queues
        first = queues[number % len(queues)]
        answer = process.broker.fetch(Fetch(process.name, number, (first,), n, False))
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

            self.fetched(process, fetch, call)
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

    # --- leases ---

    @rule(node=st.integers(0, 1))
    def renew_node(self, node: int) -> None:
        """Renew everything that a node ever started: it may have been frozen, and not know who was condemned."""
        for queues in {process.queues for process in self.processes if process.node == node}:
            self.renew(node, [p for p in self.processes if p.node == node and p.queues == queues and not p.killed], queues)
        self.renew(node, (), QUEUES)

    def renew(self, node: int, processes: Sequence[Process], queues: tuple[str, ...]) -> None:
        # a negative lease: all leases are old
        looked = self.nodes[node].renew(queues, [process.name for process in processes], -LEASE_MS)
        view = self.store.view(QUEUES)
        self.promoted(view)
        for queue in queues:
            assert not [one for one in self.delayed[queue] if one[0] <= self.hours], "a renewal promotes what is due"
        self.seen[node].update({(one.queue, one.process): one.value for one in looked})
        names = {(lease.queue, lease.process): lease.value == "0" for lease in looked}
        known = [*self.processes, *(process for process in processes if process not in self.processes)]
        expected = {
            (queue, process.name): queue in process.condemned
            for process in known
            for queue in process.queues
            if queue in queues and queue not in process.released
        }
        assert names == expected, "who holds a lease, and whether it was taken away"
        self.doubt.difference_update(queues)

    @precondition(lambda self: any(self.seen))
    @rule(node=st.integers(0, 1), which=st.lists(index, min_size=1, max_size=3))
    def condemn(self, node: int, which: list[int]) -> None:
        """Condemn by what was seen, which may be long ago."""
        seen = sorted(self.seen[node].items())
        if not seen:
            return
        chosen = dict(seen[at % len(seen)] for at in which)
        now = self.store.view(QUEUES).leases
        expected = {key for key, value in chosen.items() if key in now and now[key] in ("0", value)}
        found = self.nodes[node].condemn([Lease(*key, value) for key, value in chosen.items()])
        assert {(one.queue, one.process) for one in found} == expected
        self.take_away(expected)

    @precondition(lambda self: self.running())
    @rule(who=index)
    def condemn_own(self, who: int) -> None:
        """Its supervisor knows that a process is dead, or takes it for dead."""
        process = self.pick(who)
        found = self.nodes[process.node].condemn([Lease(queue, process.name, "") for queue in process.queues])
        keys = {(queue, process.name) for queue in process.queues if queue not in process.released}
        assert {(one.queue, one.process) for one in found} == keys
        self.take_away(keys)

    def take_away(self, keys: set[tuple[str, str]]) -> None:
        for queue, name in keys:
            process = next(process for process in self.processes if process.name == name)
            process.condemned.add(queue)
            self.doubt.update(process.queues)

    @precondition(lambda self: len(self.running()) > 1)
    @rule(who=index)
    def kill(self, who: int) -> None:
        process = self.pick(who)
        process.killed = True
        process.wake.close()
        self.doubt.update(process.queues)

    @precondition(lambda self: any(p.fenced and not p.killed for p in self.processes))
    @rule(who=index)
    def take_a_new_name(self, who: int) -> None:
        fenced = [process for process in self.processes if process.fenced and not process.killed]
        process = fenced[who % len(fenced)]
        process.killed = True
        process.wake.close()
        self.start(process.node, process.queues)

    @precondition(lambda self: any(p.condemned - p.released for p in self.processes))
    @rule(
        who=index,
        node=st.integers(0, 1),
        marks=st.lists(st.booleans(), min_size=1, max_size=4),
        steps=st.sampled_from([None, None, 0, 1, 2]),
        reply=st.booleans(),
        gone=st.sampled_from([True, True, False]),
    )
    def release(self, who: int, node: int, marks: list[bool], steps: int | None, reply: bool, gone: bool) -> None:
        """Hand back what a condemned process held, charging some of it; perhaps cut off after some steps."""
        able = [(process, queue) for process in self.processes for queue in sorted(process.condemned - process.released)]
        process, queue = able[who % len(able)]
        broker = self.nodes[node]
        leased = broker.leased(queue, process.name)
        held = self.held(queue, process)
        assert dict(leased) == {tag: one.message for tag, one in held.items()}
        charges = {
            tag: _core.remark(message, charged(message) + 1, False)
            for at, (tag, message) in enumerate(leased)
            if marks[at % len(marks)] and not is_last(message)
        }
        complete = True
        moved: int | None = None
        if steps is None or not self.store.steps:
            moved = broker.release(queue, process.name, charges, gone=gone)
        else:
            try:
                with self.store.interrupted(broker, steps, reply=reply):
                    moved = broker.release(queue, process.name, charges, gone=gone)
            except OperationalError:
                complete = False
        view = self.store.view(QUEUES)
        left = view.leased.get((queue, process.name), {})
        items = [(tag, one) for tag, one in held.items()]
        if self.store.by_age:
            items.sort(key=lambda item: int(item[0]))
        if complete:
            assert not left and moved == len(items)
        keep = len(left)
        assert [tag for tag, _ in items[:keep]] == [tag for tag, _ in items if tag in left], "the newest go back first"
        back: dict[tuple[str, int], list[tuple[str, bytes]]] = {}
        for tag, one in items[keep:]:
            back.setdefault((queue, one.level), []).append((tag, charges.get(tag, one.message)))
            del held[tag]
        self.give_back(back)
        if process.idle:
            self.doubt.update(process.queues)
        if (queue, process.name) not in view.leases:
            assert gone and not left
            process.released.add(queue)
            process.idle = tuple(name for name in process.idle if name != queue)
        else:
            assert not (complete and gone), "the lease goes with the last message"

    @precondition(lambda self: self.running())
    @rule(who=index)
    def release_the_living(self, who: int) -> None:
        process = self.pick(who)
        for queue in process.queues:
            if queue not in process.condemned:
                try:
                    self.nodes[1 - process.node].release(queue, process.name, {})
                except OperationalError:
                    continue
                raise AssertionError("the deliveries of a living process were released")

    # --- people ---

    def some_ids(self) -> list[str]:
        places = [self.order(queue) for queue in QUEUES]
        places += [[message for *_, message in self.delayed[queue]] for queue in QUEUES]
        places += [[one.message for one in held.values()] for held in self.leased.values()]
        return [_core.task_id(message) for place in places for message in place]

    @precondition(lambda self: self.some_ids())
    @rule(which=st.lists(st.integers(0, 40), min_size=1, max_size=3), queue=st.sampled_from(QUEUES), results=st.booleans())
    def revoke(self, which: list[int], queue: str, results: bool) -> None:
        ids = self.some_ids()
        chosen = {ids[at % len(ids)] for at in which}
        number = self.nodes[0].revoke(sorted(chosen), 3600)
        assert number > self.revocation
        assert self.nodes[1].revoked(self.revocation) == (number, sorted(chosen)) or set(
            self.nodes[1].revoked(self.revocation)[1]
        ) == chosen
        self.revocation = number
        swept = self.inspector.revoke_waiting(queue, chosen, results=results)
        ended = set()
        for level, messages in self.ready[queue].items():
            ended |= {_core.task_id(message) for message in messages} & chosen
            self.ready[queue][level] = [message for message in messages if _core.task_id(message) not in chosen]
        ended |= {_core.task_id(message) for *_, message in self.delayed[queue]} & chosen
        self.delayed[queue] = [one for one in self.delayed[queue] if _core.task_id(one[3]) not in chosen]
        leased = {_core.task_id(one.message) for key, held in self.leased.items() if key[0] == queue for one in held.values()}
        assert (swept.ended, swept.leased) == (ended, leased & chosen)
        if results:
            self.results.update((id, ("REVOKED", None)) for id in ended)
        self.check_results(chosen)

    @rule(queue=st.sampled_from(QUEUES), really=st.integers(0, 5))
    def purge(self, queue: str, really: int) -> None:
        if really:
            return
        assert self.inspector.purge(queue) == self.waiting(queue)
        self.ready[queue], self.delayed[queue] = {}, []

    @precondition(lambda self: any(self.dead.values()))
    @rule(
        queue=st.sampled_from(QUEUES),
        to=st.sampled_from([None, *QUEUES]),
        which=st.lists(index, min_size=1, max_size=4),
        change=st.booleans(),
        forget=st.booleans(),
        delete=st.booleans(),
    )
    def dead_letters(self, queue: str, to: str | None, which: list[int], change: bool, forget: bool, delete: bool) -> None:
        """Put some back, or drop them; the same again is nothing."""
        letters = self.inspector.dead(queue)[::-1]
        if not letters:
            return
        chosen = [letters[at] for at in dict.fromkeys(at % len(letters) for at in which)]
        keys = [letter.key for letter in chosen]
        by_message = {message: level for level, message, _ in self.dead[queue]}
        self.dead[queue] = [one for one in self.dead[queue] if one[1] not in {letter.message for letter in chosen}]
        if delete:
            assert self.inspector.delete_dead(queue, keys) == len(keys)
            assert self.inspector.delete_dead(queue, keys) == 0
            return
        changes: dict[str, Revival] = {}
        for letter in chosen:
            message = self.message()[0] if change else None
            id = _core.task_id(letter.message)
            changes[letter.key] = Revival(message, [id] if forget else [])
            self.ready[to or queue].setdefault(by_message[letter.message], []).append(message or bare(letter.message))
            _, record = self.results.get(id, ("", None))
            if forget and record is not None and _core.decode_result(record)[0] == "FAILURE":
                del self.results[id]
        assert self.inspector.retry_dead(queue, keys, changes=changes, to=to) == len(keys)
        assert self.inspector.retry_dead(queue, keys, changes=changes, to=to) == 0
        self.check_results({_core.task_id(letter.message) for letter in chosen})

    @rule()
    def advance(self) -> None:
        self.store.advance()
        self.hours += 1
        now_ms = self.store.now_ms()
        for process in self.processes:
            if process.idle and process.due_ms:
                if now_ms is None:
                    process.due_ms -= HOUR_MS
                # its own time has come: it looks
                process.woken = process.woken or process.due_ms <= (now_ms or self.nodes[0].now_ms())
        self.promoted(self.store.view(QUEUES))

    # --- the laws ---

    @invariant()
    def every_message_is_where_it_must_be(self) -> None:
        view = self.store.view(QUEUES)
        for queue in QUEUES:
            assert view.ready[queue] == {level: messages for level, messages in self.ready[queue].items() if messages}
            assert [one[1:] for one in view.delayed[queue]] == [one[2:] for one in self.delayed[queue]]
            letters = [(letter.message, letter.reason) for letter in self.inspector.dead(queue)]
            assert letters[::-1] == [one[1:] for one in self.dead[queue]]
            depth = {
                "ready": sum(map(len, self.ready[queue].values())),
                "delayed": len(self.delayed[queue]),
                "leased": sum(len(held) for key, held in self.leased.items() if key[0] == queue),
                "dead": len(self.dead[queue]),
            }
            assert self.inspector.depth(queue) == depth
            alive = [p.name for p in self.processes if queue in p.queues and queue not in p.condemned]
            assert sorted(self.inspector.listeners(queue)) == sorted(alive)
        found = {key: held for key, held in view.leased.items() if held}
        assert found == {key: {tag: one.message for tag, one in held.items()} for key, held in self.leased.items() if held}

    @invariant()
    def whoever_is_needed_has_been_woken(self) -> None:
        for process in self.processes:
            if not process.killed:
                process.wake.check()
                process.woken = process.wake.drain() or process.woken
        view = self.store.view(QUEUES)
        for queue in set(QUEUES) - self.doubt:
            waiting = [process for process in self.processes if queue in process.idle and process.running]
            woken = sum(process.woken for process in waiting)
            ready = self.order(queue)
            if any(map(is_last, ready)):
                able = [p for p in waiting if not p.spare] if all(map(is_last, ready)) else waiting
                need = min(1, len(able))
            else:
                need = min(len(ready), len(waiting))
            assert woken >= need, f"{len(ready)} are ready in {queue}, {len(waiting)} wait, {woken} were woken"
            due_ms = min((one[0] for one in view.delayed[queue]), default=0)
            if due_ms and waiting and not woken:
                assert any(0 < process.due_ms <= due_ms for process in waiting), f"nobody keeps the time of {queue}"

    def finish(self) -> None:
        """End everything: nothing may be left but what has a TTL."""
        for _ in range(3):
            self.advance()
        for process in list(self.processes):
            self.take_away({(queue, process.name) for queue in process.queues if queue not in process.released})
            self.nodes[0].condemn([Lease(queue, process.name, "") for queue in process.queues])
            for queue in sorted(set(process.queues) - process.released):
                held = self.held(queue, process)
                back: dict[tuple[str, int], list[tuple[str, bytes]]] = {}
                items = sorted(held.items(), key=lambda item: int(item[0])) if self.store.by_age else list(held.items())
                for tag, one in items:
                    back.setdefault((queue, one.level), []).append((tag, one.message))
                assert self.nodes[1].release(queue, process.name, {}) == len(held)
                held.clear()
                self.give_back(back)
                process.released.add(queue)
        last = self.start(0, QUEUES)
        for _ in range(20 * MOST):
            fetch = self.ask(last, 50, True, False)
            self.fetched(last, fetch, lambda fetch=fetch: last.broker.fetch(fetch))
            held = [one for one in last.ever if one[1] in self.held(one[0], last)]
            if not held:
                break
            self.settled(last, [self.settlement(last, one, DONE, 0) for one in held], last.broker)
        for queue in QUEUES:
            self.inspector.delete_dead(queue, [letter.key for letter in self.inspector.dead(queue)])
            self.dead[queue].clear()
        self.every_message_is_where_it_must_be()
        assert not any(self.waiting(queue) for queue in QUEUES), "what is ready is fetched, whoever asks"
        last.broker.condemn([Lease(queue, last.name, "") for queue in QUEUES])
        for queue in QUEUES:
            last.broker.release(queue, last.name, {})
        assert self.store.leftovers() == []


_ = replace
