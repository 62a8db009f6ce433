"""Extreme classification sets from the indexes of a Debian mirror."""
