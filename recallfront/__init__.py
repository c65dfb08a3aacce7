"""Finds the recall-throughput trade-off of efficient language-model architectures."""

__version__ = "0.1.0"
