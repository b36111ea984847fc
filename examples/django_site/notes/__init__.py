"""Notes whose words are counted by a task."""
