"""Evaluate a checkpoint: request, plan, attacks, verdicts, result.

The steps of an evaluation:

1. ``planning/``: options are checked (``settings``), a suite is read (``suites``), and both give the request
   (``request``), its stages (``cascade``) and its units (``units``); ``cost`` estimates the time.
2. ``prepare``: the checkpoint and its images are loaded, and with the request become a ``job``.
   ``in_memory`` does the same for a model that is already loaded.
3. ``executors/``: the scheduler opens the run folder and gives units to workers. A worker holds a
   ``session``: the job with its ``worker``, and the report on the model with the figures of ``checks/``.
4. ``worker``: an attack searches on the ``attack_copy``; ``judge`` decides on the original model.
5. ``store``: finished units are stored in the run folder or in memory.
6. ``result_writer``: verdicts and report become the result and its evidence.

``run`` performs steps 3 to 6 for one job. May import ``core``, ``data``, ``results``, ``models`` and
``attacks``.
"""
