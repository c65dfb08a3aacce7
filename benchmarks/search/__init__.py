"""What search methods cost, on recorded learning curves."""
