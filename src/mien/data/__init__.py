"""Reads, checks, splits and draws sets of face crops."""
