"""Product with a gate: the elementwise half of a gated channel mixer."""
