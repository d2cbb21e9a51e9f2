"""From the trained network to where it runs: what it costs there."""
