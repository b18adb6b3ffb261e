"""Benchmarks of speed and memory against other implementations: ``python -m benchmarks`` or ``make bench``.

``evaluation`` measures attacks, ``training`` training steps, ``scaling`` several workers and GPUs. Each
compared implementation (a *side*) runs in its own process, so that its peak memory is measured separately.
The parent process imports nothing heavy, because a child's peak memory starts at that of its parent. May
import both packages; neither imports it.
"""
