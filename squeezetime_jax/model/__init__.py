"""The network, top to bottom as the paper draws it."""
