"""Chronologically Accurate Retrieval (ECCV 2024) on TMR (ICCV 2023): text and human motion in one space."""
