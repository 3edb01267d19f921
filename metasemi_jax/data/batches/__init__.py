"""Batches for the step: sample, augment, stream."""
