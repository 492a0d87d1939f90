"""Packs: one file from which a student is trained without the teacher and without one real image."""
