"""Measure whole workers: what ``fastq bench`` and the scripts in ``benchmarks/`` share.

The method. A queue is filled before the worker starts. Every task marks its own byte in shared memory as its last step, so tasks
are counted where they complete, and lost and repeated ones are seen. The clock starts at the first marks (worker start is excluded)
and stops when the broker holds nothing more, ready or leased. Memory is the PSS of the process tree (shared pages counted once),
CPU the time of the same tree. A worker imports of this package only ``marks``, ``tasks`` and ``worker_app``.
"""
