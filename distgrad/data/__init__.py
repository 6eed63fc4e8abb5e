"""Data: datasets, the order in which they are read, and batches; torch.utils.data's names.

Layer 6. Nothing here knows of ranks as such: a sampler is told two plain numbers, how many replicas
there are and which one it serves.
"""

from .collate import default_collate, default_convert
from .dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from .distributed import DistributedSampler
from .hdf5 import HDF5Dataset
from .loader import DataLoader
from .memmap import MemmapDataset
from .resumable import Sampler
from .sampler import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler
from .worker import WorkerInfo, get_worker_info

__all__ = ["BatchSampler", "ChainDataset", "ConcatDataset", "DataLoader", "Dataset", "DistributedSampler",
           "HDF5Dataset", "IterableDataset", "MemmapDataset", "RandomSampler", "Sampler", "SequentialSampler",
           "StackDataset", "Subset", "SubsetRandomSampler", "TensorDataset", "WeightedRandomSampler", "WorkerInfo",
           "default_collate", "default_convert", "get_worker_info", "random_split"]
