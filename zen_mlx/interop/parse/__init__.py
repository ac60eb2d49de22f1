"""Delta files of other programs -> named arrays. Only parses: what they mean for a base is the importer's question."""
