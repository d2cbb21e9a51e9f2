"""The networks that the paper compares SqueezeTime with, and the register of all networks."""
