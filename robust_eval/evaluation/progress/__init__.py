"""Progress of an evaluation on a terminal, in a notebook or in a file."""
