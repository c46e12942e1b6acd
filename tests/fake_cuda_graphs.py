"""CUDA graphs on a CPU: a capture records operations, and a replay does them again in the memory that they had."""

import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from layeredrl.nets import captured

WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class NoWaiting(TorchDispatchMode):
    """Refuses operations for which a GPU's results would have to be awaited."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            raise RuntimeError("called a synchronizing CUDA operation")
        return func(*args, **(kwargs or {}))


class FakeGraph:
    """Holds what is made in the capture, as a graph holds its memory pool, but nothing that it reads besides."""

    def __init__(self):
        self.calls, self.own, self.generators = [], set(), [torch.default_generator]

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def record(self, func, args, kwargs, out):
        refs = tree_map_only(Tensor, lambda x: x if id(x) in self.own else weakref.ref(x), (args, kwargs))
        is_view = not storages((args, kwargs)).isdisjoint(storages(out))
        self.calls.append((func, refs, out, is_view))
        self.own |= {id(x) for x in tree_leaves(out)}

    def replay(self):
        for func, refs, out, is_view in self.calls:
            args, kwargs = tree_map_only(weakref.ref, alive, refs)
            if func._schema.is_mutable:
                func(*args, **kwargs)
            elif not is_view:
                for own, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                    own.copy_(new)


def storages(tree):
    return {x.untyped_storage().data_ptr() for x in tree_leaves(tree) if isinstance(x, Tensor)}


def alive(reference):
    value = reference()
    assert value is not None, "the graph reads memory that was freed"
    return value


class FakeCapture(NoWaiting):
    def __init__(self, graph, stream):
        super().__init__()
        self.graph = graph

    def __enter__(self):
        self.states = [generator.get_state() for generator in self.graph.generators]
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for generator, state in zip(self.graph.generators, self.states, strict=True):
            generator.set_state(state)  # a capture runs nothing, and so draws no noise

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.graph.record(func, args, kwargs or {}, out)
        return out


def fake_cuda_graphs(monkeypatch):
    """Let the CPU pass for a device with graphs."""
    no_waiting = NoWaiting()

    def set_sync_debug_mode(mode):
        no_waiting.__enter__() if mode == "error" else no_waiting.__exit__(None, None, None)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "CUDAGraph": FakeGraph,
        "graph": FakeCapture,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": nullcontext,
        "device": nullcontext,
        "default_generators": {None: torch.default_generator},
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": set_sync_debug_mode,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(captured, "DEVICE_TYPE", "cpu")
