"""What a training step needs of a machine that is not here, by that machine's own compiler."""
