"""Files: weights in and out, and checkpoints of a whole training state.

Layer 8, the only door to safetensors. It sees models and ranks, and neither of them sees it.

    Checkpointer    when: save, wait, restore, resume      parts       what: the states, and who writes which arrays
    writing         one save on one rank, until all have   tree        a state as JSON and arrays
    verify, loading is it what was saved; give it back     manifest, tensorfile, files, store   bytes and names
"""

from .checkpointer import Checkpointer, load, save
from .parts import PerRank
from .together import Restored
from .weights import load_metadata, load_weights, save_weights

__all__ = ["Checkpointer", "PerRank", "Restored", "load", "load_metadata", "load_weights", "save", "save_weights"]
