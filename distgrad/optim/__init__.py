"""Optimizers and learning rate schedules: torch.optim's names.

Layer 6: it reads gradients and writes parameters in place, and knows neither modules nor ranks.
"""

from . import lr_scheduler
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
