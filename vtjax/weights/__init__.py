"""Weights in and out: readers that run no code, key maps, and a report of every tensor that did not fit."""
