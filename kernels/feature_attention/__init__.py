"""Normalised causal linear attention of queries and keys that a feature map has made."""
