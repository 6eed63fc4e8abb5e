"""Data: datasets, the order in which they are read, and batches; torch.utils.data's names.

Layer 6. Nothing here knows of ranks as such: a sampler is told two plain numbers, how many replicas
there are and which one it serves.
"""

from .collate import default_collate, default_convert
from .dataset import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from .loader import DataLoader
from .sampler import BatchSampler, DistributedSampler, RandomSampler, Sampler, SequentialSampler

__all__ = ["BatchSampler", "ConcatDataset", "DataLoader", "Dataset", "DistributedSampler", "IterableDataset",
           "RandomSampler", "Sampler", "SequentialSampler", "Subset", "TensorDataset", "default_collate",
           "default_convert", "random_split"]
