"""A state machine that does to a broker, in any order, what producers, workers, supervisors and people do.

Beside the broker stands a model in plain Python (``broker_model``): lists of messages per place. Before a call the model says what
must come of it, after it the whole store is compared with the model. Here is what supervisors and people do; what producers and
worker processes do is in ``broker_work``. The store is read raw (``broker_stores``), so that a message that no call would ever
show again is seen too. What the specification leaves open (how much a fetch takes while others are idle, whether it promotes in
queues that it did not come to) is taken from the store and checked against its bounds.

Delays are whole hours, and time is moved on by hours: real time does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from fastq import _core
from fastq.exceptions import OperationalError
from fastq.records import DONE, Lease, Revival
from tests.broker_model import (
    LEASE_MS,
    MOST,
    QUEUES,
    Process,
    bare,
    charged,
    index,
    is_last,
)
from tests.broker_stores import HOUR_MS
from tests.broker_work import Work

__all__ = ["BrokerMachine"]


class BrokerMachine(Work):
    """``make`` opens an empty store."""

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

    @precondition(lambda self: len(self.running()) > 2)
    @rule(who=index)
    def condemn_own(self, who: int) -> None:
        """Its supervisor knows that a process is dead, or takes it for dead."""
        process = self.pick(who)
        keys = {(queue, process.name) for queue in process.queues if queue not in process.released}
        found = self.nodes[process.node].condemn([Lease(*key, "") for key in sorted(keys)])
        assert {(one.queue, one.process) for one in found} == keys
        self.take_away(keys)

    def take_away(self, keys: set[tuple[str, str]]) -> None:
        for queue, name in keys:
            process = next(process for process in self.processes if process.name == name)
            process.condemned.add(queue)
            self.doubt.update(process.queues)

    @precondition(lambda self: len(self.running()) > 2)
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

    def release_the_living(self, who: int, which: int) -> None:
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
        number = self.nodes[0].revoke(sorted(chosen), 1000 * 3600)
        assert number > self.revocation
        assert (
            self.nodes[1].revoked(self.revocation) == (number, sorted(chosen))
            or set(self.nodes[1].revoked(self.revocation)[1]) == chosen
        )
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

    def purge(self, who: int, which: int) -> None:
        queue = QUEUES[who % 2]
        if which % 3:
            return
        assert self.inspector.purge(queue) == self.waiting(queue)
        self.ready[queue], self.delayed[queue] = {}, []

    @precondition(lambda self: any(self.dead.values()))
    @rule(
        queue=st.sampled_from(QUEUES),
        to=st.sampled_from([None, *QUEUES]),
        which=st.lists(index, min_size=1, max_size=4),
        change=st.sampled_from([False, False, True]),
        forget=st.booleans(),
        delete=st.sampled_from([False, False, False, True]),
    )
    def dead_letters(self, queue: str, to: str | None, which: list[int], change: bool, forget: bool, delete: bool) -> None:
        """Put some back, or drop them; the same again is nothing."""
        queue = queue if self.dead[queue] else next(name for name in QUEUES if self.dead[name])
        letters = self.inspector.dead(queue)[::-1]
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

    @precondition(lambda self: self.running())
    @rule(
        what=st.sampled_from(["repeat_fetch", "fetch_late", "release_the_living", "fork", "purge"]),
        who=index,
        which=index,
    )
    def now_and_then(self, what: str, who: int, which: int) -> None:
        getattr(self, what)(who, which)

    @precondition(lambda self: any(self.delayed.values()))
    @rule()
    def advance(self) -> None:
        self.store.advance()
        self.hours += 1
        for producer in self.producers:
            producer.sent.clear()  # an hour is longer than the number of a call is remembered
        now_ms = self.store.now_ms()
        for process in self.processes:
            if process.idle and process.due_ms:
                if now_ms is None:
                    process.due_ms -= HOUR_MS
                # its own time has come: it looks
                process.woken = process.woken or process.due_ms <= (now_ms or self.nodes[0].now_ms())
        self.promoted(self.store.view(QUEUES))

    def finish(self) -> None:
        """End everything: nothing may be left but what has a TTL."""
        for _ in range(3):
            self.advance()
        for process in list(self.processes):
            self.take_away({(queue, process.name) for queue in process.queues if queue not in process.released})
            self.nodes[0].condemn([Lease(queue, process.name, "") for queue in sorted(set(process.queues) - process.released)])
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
            process.idle = ()
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
