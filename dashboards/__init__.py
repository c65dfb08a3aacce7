"""How to look at a sweep: pages inside MLflow's own server."""
