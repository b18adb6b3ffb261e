"""The measurements of Liu et al. 2020: Hessian, gradient scattering, connectivity, linear classifier.

May import the modules directly in ``robust_eval.landscape`` and the packages that it may import, not ``awp``.
"""
