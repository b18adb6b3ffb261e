"""One recipe at several values of its fields: what to train, training it, and the figure."""
