"""Losses by which a student learns from generators of outputs while it trains: of its own outputs, or of peers'."""
