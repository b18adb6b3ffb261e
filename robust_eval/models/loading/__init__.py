"""Loading of checkpoints: file formats, architecture detection, and input normalisation.

May import ``robust_eval.{core, data, results}`` and the other modules of ``robust_eval.models``.
"""
