"""What the steerers have done, and whether the fleet is as it was before."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.soak.fleet import Fleet

__all__ = ["Steered"]

#: what a node answers to which the broker, or the process that could answer, has been lost just now
EXCUSED = ("cannot be reached or closed the connection", "no process with the application", "does not answer")


@dataclass
class Steered:
    """Counts, of all incarnations."""

    actions: Counter[str] = field(default_factory=Counter)
    #: type -> events that were heard
    events: Counter[str] = field(default_factory=Counter)
    #: answers to questions that were errors
    errors: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, folder: Path) -> Steered:
        steered = cls()
        for path in sorted((folder / "steered").iterdir()):
            # what was being written when it was killed has no end
            for line in path.read_bytes().rpartition(b"\n")[0].splitlines():
                _, _, name, target, came = json.loads(line)
                steered.actions[name] += 1
                if name == "listened":
                    steered.events.update(came)
                elif name == "scrape" and came[0] != 200 and target != "/ready":
                    steered.errors[f"{target} answered {came[0]}"] += 1
                elif name == "examine":
                    steered.errors.update(came)
                elif name == "inspect":
                    steered.errors.update(text for text in came if ": " in text and not any(e in text for e in EXCUSED))
        return steered

    def wrong(self, fleet: Fleet) -> list[str]:
        """Look at the fleet, which has nothing to do any more: everybody must answer, and nothing be paused."""
        found = fleet.look()
        nodes = {f"{node.name}@soak" for node in fleet.nodes}
        if "failed" in found:
            return [f"the nodes could not be asked: {found['failed']}"]
        wrong = [f"{node} does not answer" for node in sorted(nodes - set(found["answered"]))]
        wrong += [f"{node} is not said to be online" for node in sorted(nodes - set(found["online"]))]
        wrong += [f"{node} says that it runs {runs!r:.300}" for node, runs in found["active"].items()]
        wrong += found["alarms"]
        wrong += [f"{name} is paused still" for name in found["paused"]]
        return wrong + [f"{n} times: {text}" for text, n in self.errors.items()]
