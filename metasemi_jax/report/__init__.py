"""Tables over runs, beside published results."""
