"""Evaluate a checkpoint: request, plan, attacks, verdicts, result.

The stops of a checkpoint, in order:

1. ``planning/``: options are checked (``settings``), a suite is read (``suites``), and both give the request
   (``request``), its stages (``cascade``) and its units (``units``); ``cost`` estimates the time.
2. ``prepare``: the checkpoint and its images are loaded, and with the request become a ``job``.
   ``in_memory`` does the same for a model that is already loaded.
3. ``executors/``: the scheduler opens the run folder and gives units to workers. A worker holds a
``session``: the job
   with its ``worker`` and the report on the model, for which ``checks/`` probes it.
4. ``worker``: an attack searches on the ``attack_copy``; ``judge`` decides on the original model.
5. ``store``: finished units are kept in the run folder or in memory.
6. ``result_writer``: verdicts and report become the result and its evidence.

``run`` is the shortest way through all of it. May import ``core``, ``data``, ``results``, ``models`` and
``attacks``.
"""
