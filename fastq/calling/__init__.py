"""Turn a call into a message: options merged once per task, and the envelope of each call.

``options`` says what ``apply_async`` takes, ``arguments`` checks a function's, ``times`` reads dates, ``follow`` says what comes
after, ``announce`` tells signals, and ``plan`` puts them together.
"""

from __future__ import annotations

from fastq.calling.arguments import Signature
from fastq.calling.many import CHUNK
from fastq.calling.options import CallOptions, ManyOptions
from fastq.calling.plan import Plan

__all__ = ["CHUNK", "CallOptions", "ManyOptions", "Plan", "Signature"]
