"""From bytes on disk to a global array on the devices."""
