"""Sequence mixers, one letter of a pattern each."""
