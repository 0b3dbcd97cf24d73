"""A run's curves and scores in wandb, SwanLab or MLflow (``track`` in the recipe).

Training knows of no tracker: it writes ``checkpoints/train_log.jsonl``, each step once, as it always does. A tracker is
fed from that file by a process of its own, which may be late, fail or hang without training noticing. So

* with a network on the node, the first rank starts that process (:mod:`.live`) and curves are there while they grow;
* without one, the run directory is what was written to disk, and ``python -m glmjobs.track sync RUN`` sends it from a
  machine that has a network; the report stage tries that by itself.

Both go through :mod:`.sending`. What was sent is not sent again: ``RUN/track/NAME.json`` keeps the last step that a
tracker has, and the tracker itself is asked where it can tell. A step that is trained a second time after a resume
stays as it was first sent: the same, for resuming is exact. The tracker's own id for the run is made of the run's key,
one over all attempts.

Where a tracker is, and the key for it, are the tracker's own variables and files (:mod:`.targets`); no key is read
into, or written to, anything of ours.
"""
