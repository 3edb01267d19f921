"""Memory and time of a training step on a machine that is not here, from that machine's compiler."""
