"""What networks are trained for: each folder is a task, found by its name."""
