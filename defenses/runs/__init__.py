"""Files of a run folder: written during training, and read for figures and tables.

May import ``robust_eval.core``.
"""
