"""The attack copy: an accelerated copy of a model that attacks differentiate and query.

Verdicts are computed with the original model, so acceleration cannot change what counts as robust. May import
``robust_eval.core`` and ``robust_eval.models.normalisation``.
"""
