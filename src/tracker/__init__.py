"""Tracker: a pixel collector that writes every answered visit to a log exactly once."""

__version__ = "0.1.0"
