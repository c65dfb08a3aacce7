"""Linear attention with the second-order Taylor feature map of Based."""
