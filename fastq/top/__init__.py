"""What ``fastq top`` shows: nodes, queues, task names and running tasks, looked at again and again."""
