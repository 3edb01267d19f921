"""Plots of a trained run."""
