"""Parameterised blocks in Flax Linen. Elsewhere parameters are plain nested dicts and everything is a pure function."""
