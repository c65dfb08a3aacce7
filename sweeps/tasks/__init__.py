"""Tasks: the data that a trial trains on and the metric that its recall is."""
