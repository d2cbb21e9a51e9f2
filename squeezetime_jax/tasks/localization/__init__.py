"""Temporal action localisation on THUMOS14 (the paper's Table 11): when in a video what happens."""
