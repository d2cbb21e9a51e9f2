"""The tasks: each holds its data, head, loss and metric."""
