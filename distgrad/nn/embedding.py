"""A table of vectors, looked up by integers."""

from __future__ import annotations

from typing import Any

from .._tensor.creation import empty
from ..graph.modes import no_grad
from ..ops.index import embedding
from . import init
from .module import Module
from .parameter import Parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """weight[input]: integers of any shape to vectors, (...) to (..., embedding_dim).

    Args:
        num_embeddings: rows of the table; weight is (num_embeddings, embedding_dim), from N(0, 1).
        padding_idx: a row that starts at 0 and gets no gradient; may count from the end.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx {padding_idx} is outside of a table of {num_embeddings} rows")
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.weight = Parameter(empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """A layer over given vectors (rows, embedding_dim), whose memory it shares; frozen unless told otherwise."""
        if embeddings.ndim != 2:
            raise ValueError(f"vectors are a matrix (rows, embedding_dim), got shape {tuple(embeddings.shape)}")
        made = cls(*embeddings.shape, padding_idx=padding_idx)
        made.weight = Parameter(embeddings, requires_grad=not freeze)
        return made

    def reset_parameters(self) -> None:
        """Draw the vectors anew; that of padding_idx becomes 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, input: Any) -> Any:
        return embedding(self.weight, input, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
