"""Linear attention whose state decays: by head (RetNet, Mamba-2) or by key dimension (GLA)."""
