"""Types and utilities used by all packages.

Imports no other package of the project.
"""
