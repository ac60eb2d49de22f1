"""Other programs' files: reading them, and profiles in their formats."""
