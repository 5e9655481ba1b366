"""What asks the kernel, and with whose rights it asks."""
