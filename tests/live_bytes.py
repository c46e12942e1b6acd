"""How much memory tensors take: counted, not measured, so that it is the same in every run."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make inside of it, as long as these live.

    Views share what they are views of. What an operation takes and frees within itself isn't seen.

    Attributes:
        now: bytes that live now.
        peak: the most that ever lived at once.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Whatever is given to the first operation that sees it was made outside.
        self._track((args, kwargs), is_new=False)
        result = func(*args, **(kwargs or {}))
        self._track(result, is_new=True)
        return result

    def _track(self, values, *, is_new):
        for tensor in tree_leaves(values):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes() if is_new else 0
            if key in self._known:
                continue
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self._known.discard(key)
        self.now -= size
