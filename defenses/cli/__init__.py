"""The commands of ``defenses``, one file each: parse the options, call, print. Only this folder prints.

Commands import the rest of the project when they run, so that ``--help`` is fast.
"""
