"""Losses of students that learn from generators of outputs as they train: their own, or those of peers."""
