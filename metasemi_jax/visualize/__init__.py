"""Figures of a trained run."""
