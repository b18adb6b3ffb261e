"""Figures of finished training runs."""
