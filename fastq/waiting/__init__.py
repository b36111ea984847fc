"""Waiting for results: one reader of the inbox for all who wait in a process."""
