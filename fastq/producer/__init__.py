"""Send messages: ``producer`` makes the calls, ``lane`` says who leads them and who is woken, ``ticket`` is what one caller has
queued, ``policy`` how often a call is tried again.
"""

from __future__ import annotations

from fastq.producer.policy import NO_RETRY, RetryPolicy
from fastq.producer.producer import Producer

__all__ = ["NO_RETRY", "Producer", "RetryPolicy"]
