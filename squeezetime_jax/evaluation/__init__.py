"""Evaluation: views, metrics, recognition."""
