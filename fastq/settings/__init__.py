"""The settings table, what its values may be, and where they come from; ``fastq.config`` is what applications use."""
