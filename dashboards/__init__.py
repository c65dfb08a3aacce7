"""How to look at a sweep: figures of its front, and pages inside MLflow's own server."""
