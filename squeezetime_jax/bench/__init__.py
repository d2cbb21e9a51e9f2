"""What a network costs on this machine, in any runtime; and what this machine has."""
