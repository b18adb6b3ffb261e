"""Loading of checkpoints: file formats, architecture detection, and input normalisation."""
