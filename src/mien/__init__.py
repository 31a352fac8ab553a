"""Mien: facial expression recognition with Vision Transformers, and numbers that anybody can check."""

__version__ = "0.1.0"
