"""Extreme classification: a model over many labels."""
