"""Files of other programs: reading them, and writing profiles in their formats."""
