"""What a network costs, in any runtime."""
