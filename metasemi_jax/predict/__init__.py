"""Predictions of a trained run, as files."""
