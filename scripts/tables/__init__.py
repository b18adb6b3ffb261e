"""Generators of the Markdown tables in README.md and docs/."""
