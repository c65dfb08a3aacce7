"""Causal softmax attention, global or in a sliding window, with or without ALiBi."""
