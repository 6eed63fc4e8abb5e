"""Operations: forward over raw arrays and one derivative rule each.

Layer 3: they get `xp` and kernels from the backend, record into `graph`, and know no Tensor class,
no layer and no rank. Every op is polymorphic: tensors in, tensor out; raw arrays in, raw array out.
"""

__all__: list[str] = []
