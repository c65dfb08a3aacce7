"""Real-gated linear recurrent unit: gates, decays and recurrence in one operator."""
