"""Linear attention whose state takes a decay a key dimension and a change of rank one: RWKV-7, and KDA in chunks."""
