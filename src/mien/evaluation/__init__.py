"""Scores that can be checked: metrics, figures and a report."""
