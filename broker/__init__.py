"""Tapecast: one market data feed in, any number of subscribers out, every tick accounted for."""

__version__ = "0.1.0"
