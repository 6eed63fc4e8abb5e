"""Hooks on modules: before and after forward, before and after the module's backward.

Backward hooks need two places in the graph, one where gradients enter the module (behind its outputs)
and one where they leave it (before its inputs): gates, which change nothing and carry node hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graph.base import TensorBase
from ..graph.function import Function
from ..graph.hooks import NodeHooks, RemovableHandle, Table
from ..graph.modes import is_grad_enabled

__all__ = ["Hooked", "ModuleGate", "ModuleHooks", "run_with_hooks"]


class ModuleHooks:
    """What is registered on one module, and which of its forward hooks want keyword arguments."""

    def __init__(self) -> None:
        self.pre = Table()            # hook(module, args) -> args | value | None
        self.forward = Table()        # hook(module, args, output) -> output | None
        self.backward_pre = Table()   # hook(module, grad_output) -> grad_output | None
        self.backward = Table()       # hook(module, grad_input, grad_output) -> grad_input | None
        self.keyworded: set[int] = set()  # ids of hooks that get kwargs too


class Hooked:
    """Module's methods that register hooks; each returns a handle whose `remove()` takes the hook out."""

    def _own_hooks(self) -> ModuleHooks:
        if self._hooks is None:
            self.__dict__["_hooks"] = ModuleHooks()
        return self._hooks

    def register_forward_pre_hook(self, hook: Callable[..., Any], *, prepend: bool = False,
                                  with_kwargs: bool = False) -> RemovableHandle:
        """Call hook(module, args) before `forward`; what it returns replaces the arguments.

        With `with_kwargs` it is hook(module, args, kwargs), and may return a pair (args, kwargs).
        """
        hooks = self._own_hooks()
        handle = hooks.pre.add(hook, first=prepend)
        if with_kwargs:
            hooks.keyworded.add(handle.id)
        return handle

    def register_forward_hook(self, hook: Callable[..., Any], *, prepend: bool = False,
                              with_kwargs: bool = False) -> RemovableHandle:
        """Call hook(module, args, output) after `forward`; what it returns replaces the output.

        With `with_kwargs` it is hook(module, args, kwargs, output).
        """
        hooks = self._own_hooks()
        handle = hooks.forward.add(hook, first=prepend)
        if with_kwargs:
            hooks.keyworded.add(handle.id)
        return handle

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_input, grad_output) when the gradients of the module's inputs are known.

        Both are tuples, with None for what is no tensor or has no gradient. A returned tuple
        replaces `grad_input`. Only tensors that are positional arguments or (elements of) the output count.
        """
        return self._own_hooks().backward.add(hook, first=prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_output) before the module's backward; a returned tuple replaces `grad_output`."""
        return self._own_hooks().backward_pre.add(hook, first=prepend)


def run_with_hooks(module: Any, hooks: ModuleHooks, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Prehooks, `forward`, forward hooks; with gates around it when backward is watched."""
    for key, hook in tuple(hooks.pre.items()):
        if key in hooks.keyworded:
            result = hook(module, args, kwargs)
            if result is not None:
                if not isinstance(result, tuple) or len(result) != 2:
                    raise RuntimeError("a forward pre-hook with kwargs returns None or a pair (args, kwargs), got "
                                       f"{type(result).__name__}")
                args, kwargs = result
        else:
            result = hook(module, args)
            if result is not None:
                args = result if isinstance(result, tuple) else (result,)
    watch = _Watch(module, hooks) if is_grad_enabled() and (hooks.backward or hooks.backward_pre) else None
    if watch is not None:
        args = watch.enter(args)
    output = module.forward(*args, **kwargs)
    for key, hook in tuple(hooks.forward.items()):
        result = hook(module, args, kwargs, output) if key in hooks.keyworded else hook(module, args, output)
        if result is not None:
            output = result
    return output if watch is None else watch.leave(output)


class ModuleGate(Function):
    """The given tensors, unchanged, behind one node."""

    name = "BackwardHookFunction"
    view = True
    fresh = False

    def forward(ctx: Any, *xs: Any) -> Any:
        return tuple([x[...] for x in xs])

    def vjp(ctx: Any, g: Any) -> Any:
        return tuple(g) if ctx.outputs > 1 else g


def _through_gate(values: tuple[Any, ...]) -> tuple[Any, Any, list[int]]:
    """The tensors among `values` behind a gate: (values, the gate's node or None, the tensors' positions)."""
    where = [i for i, x in enumerate(values) if isinstance(x, TensorBase) and x.dtype.kind in "fc"]
    if not any(values[i].requires_grad for i in where):
        return values, None, []
    passed = list(values)
    outputs = ModuleGate.apply(*[values[i] for i in where])
    for i, y in zip(where, outputs, strict=True):
        y.version = values[i].shared_version()  # the gate's output is the same storage
        passed[i] = y
    return tuple(passed), outputs[0].grad_fn, where


class _Watch:
    """The backward hooks of one call: keeps grad_output from the outer gate until the inner one runs."""

    def __init__(self, module: Any, hooks: ModuleHooks) -> None:
        self.module = module
        self.hooks = hooks
        self.arguments = 0
        self.gated = False  # some argument requires grad, so that gradients leave by a gate
        self.grad_output: tuple[Any, ...] = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put the gate before the inputs."""
        self.arguments = len(args)
        args, node, where = _through_gate(args)
        if node is not None:
            self.gated = True

            def after(grads: tuple[Any, ...], _: Any) -> Any:
                full: list[Any] = [None] * self.arguments
                for i, g in zip(where, grads, strict=True):
                    full[i] = g
                result = self._run(tuple(full))
                return None if result is None else tuple([result[i] for i in where])

            _node_hooks(node).post.add(after)
        return args

    def leave(self, output: Any) -> Any:
        """Put the gate behind the outputs."""
        several = isinstance(output, (tuple, list))
        values = tuple(output) if several else (output,)
        passed, node, where = _through_gate(values)
        if node is None:
            return output

        def before(grads: tuple[Any, ...]) -> Any:
            full: list[Any] = [None] * len(values)
            for i, g in zip(where, grads, strict=True):
                full[i] = g
            given = self.grad_output = tuple(full)
            for hook in self.hooks.backward_pre.snapshot():
                result = hook(self.module, self.grad_output)
                if result is not None:
                    self.grad_output = _checked(result, len(values), "grad_output")
            if not self.gated:
                self._run((None,) * self.arguments)
            return None if self.grad_output is given else tuple([self.grad_output[i] for i in where])

        _node_hooks(node).pre.add(before)
        if not several:
            return passed[0]
        if isinstance(output, list):
            return list(passed)
        return type(output)(*passed) if hasattr(output, "_fields") else passed

    def _run(self, grad_input: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Call the backward hooks; the gradients to use instead, if any hook returned some."""
        replaced = None
        for hook in self.hooks.backward.snapshot():
            result = hook(self.module, grad_input, self.grad_output)
            if result is not None:
                replaced = grad_input = _checked(result, self.arguments, "grad_input")
        return replaced


def _checked(result: Any, count: int, what: str) -> tuple[Any, ...]:
    """A backward hook's replacement as a tuple of the right length."""
    found = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(found) != count:
        raise RuntimeError(f"a backward hook returned {len(found)} gradients for {what}, expected {count}")
    return found


def _node_hooks(node: Any) -> Any:
    if node.hooks is None:
        node.hooks = NodeHooks()
    return node.hooks
