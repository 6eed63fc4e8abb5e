"""torch.autograd's names: backward and grad, modes, anomaly mode, gradient checks, engine callbacks.

Layer 5, over tensors. What they mean is decided in `graph`.
"""

from ..graph.anomaly import detect_anomaly, set_detect_anomaly
from ..graph.backward import backward, grad
from ..graph.engine import queue_callback
from ..graph.modes import (
                           enable_grad,
                           inference_mode,
                           is_grad_enabled,
                           is_inference_mode_enabled,
                           no_grad,
                           set_grad_enabled,
)
from . import forward_ad, functional, graph
from .function import Function, FunctionCtx, once_differentiable
from .gradcheck import GradcheckError, gradcheck, gradgradcheck
from .variable import Variable

__all__ = ["Function", "FunctionCtx", "GradcheckError", "Variable", "backward", "detect_anomaly", "enable_grad",
           "forward_ad", "functional", "grad", "gradcheck", "gradgradcheck", "graph", "inference_mode",
           "is_grad_enabled", "is_inference_mode_enabled", "no_grad", "once_differentiable", "queue_callback",
           "set_detect_anomaly", "set_grad_enabled"]
