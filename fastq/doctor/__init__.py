"""What is wrong with an application's broker, its queues and its settings, and what to do about it.

    for finding in fastq.doctor.examine(app):
        print(finding.level, finding.code, finding.subject, finding.text, finding.advice)

``docs/doctor.md`` lists the codes. Looking changes nothing and is bounded; it may run beside any load.
"""

from __future__ import annotations

from fastq.doctor.examination import LEVELS, Examination, examine
from fastq.transports.base import Finding

__all__ = ["LEFTOVERS", "LEVELS", "Examination", "Finding", "examine"]

#: codes of what nobody alive owns, or what stands where it does not belong: a test that has stopped its workers wants none of them
LEFTOVERS = frozenset({
    "foreign-key", "foreign-table", "missing-ttl", "ownerless-entry", "ownerless-key", "ownerless-row", "stranded-messages",
    "stuck-lease", "unexpected-ttl", "wrong-type",
})  # fmt: skip
