"""In what arithmetic an attack searches. What judges its images is always float32."""

from __future__ import annotations

FLOAT32, BFLOAT16 = "float32", "bfloat16"
DIFFERENCES = "bfloat16-differences"
"""float32, but small changes of an input pass through linear layers as changes, in bfloat16
(:mod:`robust_eval.models.differences`)."""
