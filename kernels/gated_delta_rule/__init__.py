"""Linear attention whose state is corrected towards each new value: DeltaNet, with decay gated DeltaNet."""
