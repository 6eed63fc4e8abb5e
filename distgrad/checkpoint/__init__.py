"""Files: weights in and out.

Layer 8, the only door to safetensors. It sees models and ranks, and neither of them sees it.
"""

from .weights import load_metadata, load_weights, save_weights

__all__ = ["load_metadata", "load_weights", "save_weights"]
