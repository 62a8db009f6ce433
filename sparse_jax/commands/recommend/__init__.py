"""Commands of recommenders."""
