"""Delta files of other programs -> named arrays. Parsing only: the importer decides what they mean for a base."""
