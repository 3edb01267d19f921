"""Seeds × settings, each a run."""
