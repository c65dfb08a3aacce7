"""Grouped linear attention, augmented with a causal convolution on the values."""
