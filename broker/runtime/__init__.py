"""Trio: tasks, channels, deadlines. Decides nothing that `broker.core` can decide."""
