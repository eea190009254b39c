"""Feeds: what brings ticks in."""
