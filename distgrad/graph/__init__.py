"""The autograd graph over raw arrays: nodes, the engine, modes, hooks, versions.

Layer 2: it knows no operation by name, no device and no rank. `ops` record into it, `autograd`
and `tensor` give it torch's public names.
"""

__all__: list[str] = []
