"""Published weights: files read as data alone, their network recognised, and converted to Flax."""
