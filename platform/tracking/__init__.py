"""How a sweep gets into MLflow (store, spool, writer) and back out of it (ledger)."""
