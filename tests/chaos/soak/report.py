"""The result of a soak, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["live_line", "markdown", "summary"]


def live_line(at_s: float, per_s: float, unfinished: int, sent: int, faults: int, up: int, nodes: int) -> str:
    tasks = f"{per_s:6.0f} runs/s  {unfinished:6d} unfinished  {sent:9d} sent"
    return f"{at_s:6.0f} s  {tasks}  {faults:4d} faults  {up}/{nodes} nodes up"


def summary(result: Mapping[str, Any]) -> str:
    """Return the table that ends a soak."""
    count = result["count"]
    rows = [
        ("seed", result["seed"]),
        ("broker, pools", f"{result['broker']}: {' '.join(result['pools'])}"),
        ("duration", f"{result['seconds']:.0f} s of sending, drained {result['drained_s']:.1f} s after it"),
        ("faults", f"{result['faults_total']}: " + ", ".join(f"{n} {name}" for name, n in sorted(result["faults"].items()))),
        ("steered", ", ".join(f"{n} {name}" for name, n in sorted(result["steered"].items())) or "nothing"),
        ("ticks", _ticks(result.get("ticks"))),
        ("events heard", ", ".join(f"{n} {name}" for name, n in sorted(result["events_heard"].items())) or "nothing"),
        ("sent", count["sent"]),
        ("  done", count["done"]),
        ("  dead", count["dead"]),
        ("  revoked or expired", f"{count['revoked']}, {count['terminated']} of them to be ended while they ran"),
        ("  lost", count["sent"] - count["done"] - count["dead"] - count["revoked"]),
        ("calls without an answer", f"{count['unknown']} units sent, {count['unknown_kept']} kept"),
        ("runs", f"{count['runs']}, {count['per_s']:.0f} a second"),
        ("longest time without a run", f"{count['longest_gap_s']:.2f} s"),
        ("slowest end of a task", f"{result['slowest_s']:.1f} s after it was sent"),
        ("second runs", f"{count['duplicates']} ({100 * count['duplicates'] / max(1, count['runs']):.3f}%)"),
        ("  because of", ", ".join(f"{n} {name}" for name, n in count["causes"].items()) or "nothing"),
        ("leases taken without a fault", count["takeovers"]),
        ("left in the broker", ", ".join(f"{n} {kind}" for kind, n in sorted(result["left"].items())) or "nothing"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if result["memory"]:
        lines += ["", "memory, medians of the second and the last third (MiB):"]
        for one in result["memory"]:
            mark = "" if one["flat"] else "   GROWS"
            change = 100 * (one["after"] / max(1, one["before"]) - 1)
            sizes = f"{one['before'] / 2**20:7.1f} {one['after'] / 2**20:7.1f}  {change:+5.1f}%"
            lines.append(f"  {one['lineage']:<28} {sizes}  {one['processes']} processes{mark}")
    return "\n".join(lines)


def _ticks(numbers: Mapping[str, Any] | None) -> str:
    if not numbers:
        return "none"
    beats = f"{numbers['starts']} starts of beats, {numbers['leads']} times one took the lead"
    late = f"the latest {numbers['latest_s']:.1f} s after it was due"
    return f"{numbers['sent']} sent, {numbers['ran']} ran, {numbers['second_runs']} second runs, {late}; {beats}"


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """Return soaks as a Markdown table, a row each."""
    lines = [
        "| broker | pools | minutes | faults | sent | done | dead | revoked | lost | second runs | longest gap | runs/s | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        count = result["count"]
        lost = count["sent"] - count["done"] - count["dead"] - count["revoked"]
        worst = max((100 * (one["after"] / max(1, one["before"]) - 1) for one in result["memory"]), default=None)
        cells = [
            result["broker"], " ".join(result["pools"]), f"{result['seconds'] / 60:.0f}", result["faults_total"],
            f"{count['sent']:,}", f"{count['done']:,}",
            f"{count['dead']:,}", f"{count['revoked']:,}", lost, f"{100 * count['duplicates'] / max(1, count['runs']):.3f}%",
            f"{count['longest_gap_s']:.1f} s", f"{count['per_s']:,.0f}", "" if worst is None else f"{worst:+.0f}% at most",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"
