"""How a profile comes to be, one readable file each."""
