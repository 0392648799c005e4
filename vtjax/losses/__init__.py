"""Losses as pure functions that return (sum, weight), so that they are reduced once, over the whole batch."""
