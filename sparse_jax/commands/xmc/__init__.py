"""Commands of one model."""
