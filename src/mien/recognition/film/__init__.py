"""Faces from frame to frame: followed, smoothed, drawn over time."""
