"""Training: recipe, step, loop, devices and reports."""
