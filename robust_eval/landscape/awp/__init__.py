"""The landscapes of Wu, Xia and Wang 2020 (AWP): curves, planes, and loss under weight perturbations.

May import the modules directly in ``robust_eval.landscape`` and the packages that it may import, not ``liu``.
"""
