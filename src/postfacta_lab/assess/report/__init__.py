"""Reports: one document, from which every format is made."""
