"""A training that stands still where a test wants it to, however fast or slow the machine is."""

# The rest of a study file whose training is one of these, as a template.
TINY_SPACE = """
[pruning]
pruner = "none"

[space]
n_blocks = 1
base_width = {{ low = 4, high = 8 }}
batch_size = 32
rate = {{ low = 0.001, high = 0.1, log = true }}
"""

HELD = '''
import time
from pathlib import Path

from hpsearch.nn.training.loop import epochs


def train(model, data, spec, *, params, device, stop, progress):
    """The built-in training, that waits after as many epochs as the name of a file says."""
    if spec.epochs > 1:  # it is no rehearsal
        wait_after(progress.epoch, stop)
    for epoch in epochs(model, data, spec, device=device, stop=stop, progress=progress):
        yield epoch
        wait_after(epoch.epoch, stop)


def wait_after(number, stop):
    """Waits while the file is there, or until the worker is to stop: a training hears it later."""
    while Path(f"hold-{number}").exists() and not stop.__self__():
        time.sleep(0.01)
'''
