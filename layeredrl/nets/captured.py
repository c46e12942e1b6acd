"""Runs captured as CUDA graphs, whose kernels the GPU gets at once rather than one by one."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor | None, ...]
# Of inputs: checks them, and reads from the device what decides which kernels run. What it returns runs these.
Prepare = Callable[..., Callable[[], Tensor]]

# Where runs are captured.
DEVICE_TYPE = "cuda"
# More than a search has sizes of populations.
MAX_GRAPHS = 16


class Captured:
    """Runs whose kernels are captured as a CUDA graph and replayed, when runs of the same kind come again.

    The first run of a kind goes as it is: `torch.compile` compiles then, and what comes once isn't captured. The
    second one is captured, and from then on the graph is replayed: for the inputs of each time, with fresh noise,
    but with the kernels, the memory and the numbers of the run that was captured. So a kind is the shapes of the
    inputs together with all else that decides on kernels. What lies in the same memory is read anew: it may change.

    Where capturing fails, as it does if a run waits for the GPU, one warning says so, and all runs go as they are.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()  # by shapes; those last used are last
        self._gave_up = False

    def __reduce__(self) -> tuple[type["Captured"], tuple[()]]:
        """A copy captures for itself."""
        return type(self), ()

    def __call__(
        self,
        prepare: Prepare,
        inputs: Inputs,
        *,
        decided_by: tuple[object, ...],
        generator: torch.Generator | None,
    ) -> Tensor:
        """What `prepare(*inputs)()` returns.

        Args:
            prepare: called each time, so that no input goes unchecked.
            inputs: that the run reads, and doesn't write to; on a device where `can_be_captured` holds.
            decided_by: tensors that the run reads besides, and numbers and objects that decide what it does.
            generator: source of the noise; None: that of the device.
        """
        run = prepare(*inputs)
        if self._gave_up:
            return run()
        shapes = tuple(None if x is None else (x.shape, x.dtype) for x in inputs), torch.is_inference_mode_enabled()
        decided_by = (*decided_by, generator)
        marks, kept = _mark(decided_by), self._kept.pop(shapes, None)
        if kept is None or kept.marks != marks:
            self._keep(shapes, _Kept(marks, decided_by))
            return run()
        graph = kept.graph
        if graph is None:
            try:
                graph = _Graph(prepare, inputs, generator)
            except Exception as error:  # whatever the run does may be impossible in a graph
                result = run()  # raises what isn't the capture's fault
                self._give_up(error)
                return result
        self._keep(shapes, kept._replace(graph=graph))
        return graph.replay(inputs)

    def _keep(self, shapes: Hashable, kept: "_Kept") -> None:
        self._kept[shapes] = kept
        if len(self._kept) > MAX_GRAPHS:
            self._kept.popitem(last=False)

    def _give_up(self, error: Exception) -> None:
        self._gave_up = True
        self._kept.clear()
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        message = f"compile=True: plans are evaluated without a CUDA graph, as capturing one failed: {reason}"
        warnings.warn(message, stacklevel=4)


class _Graph:
    """A captured run, together with the memory that it reads and writes."""

    def __init__(self, prepare: Prepare, inputs: Inputs, generator: torch.Generator | None):
        self._inputs = tuple(None if x is None else x.clone() for x in inputs)
        self._graph = torch.cuda.CUDAGraph()
        self._prepare = prepare  # held, as are the inputs and the run: the graph reads memory of theirs
        device = next(x.device for x in inputs if x is not None)
        if generator is None:
            generator = torch.cuda.default_generators[device.index]
        else:
            self._graph.register_generator_state(generator)
        with torch.cuda.device(device):
            warm_up, self._run = prepare(*self._inputs), prepare(*self._inputs)
            side_stream = torch.cuda.Stream()
            side_stream.wait_stream(torch.cuda.current_stream())
            # Goes back to the stream of before, which a capture that fails doesn't.
            with torch.cuda.stream(side_stream):
                with _unchanged(generator), _waiting_forbidden():
                    warm_up()
                with torch.cuda.graph(self._graph, stream=side_stream):
                    self._result = self._run()
            torch.cuda.current_stream().wait_stream(side_stream)

    def replay(self, inputs: Inputs) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._graph.replay()
        return self._result.clone()


class _Kept(NamedTuple):
    """What is known of the last runs with inputs of some shapes."""

    marks: Hashable
    decided_by: tuple[object, ...]  # held: a graph reads their memory, and no others get their places and marks
    graph: _Graph | None = None


def can_be_captured(device: torch.device) -> bool:
    """Whether there are CUDA graphs, no gradients are asked for, and nothing is cast around the run."""
    return device.type == DEVICE_TYPE and not torch.is_grad_enabled() and not torch.is_autocast_enabled(DEVICE_TYPE)


def state_of(part: object) -> Iterator[object]:
    """What decides what a module, a function or an object does besides its arguments, as far as it shows.

    That is itself, its attributes, for a method those of its object, and what a function encloses; of the modules
    among these, all tensors, and which parts of them are training.
    """
    attributes = getattr(getattr(part, "__self__", part), "__dict__", {})
    cells = getattr(part, "__closure__", None) or ()
    for value in (part, *attributes.values(), *(cell.cell_contents for cell in cells)):
        yield value
        if isinstance(value, nn.Module):
            yield from value.parameters()
            yield from value.buffers()
            yield from (module.training for module in value.modules())


def _mark(value: object) -> Hashable:
    """Equal, as long as a number is the same, an object the same one, and a tensor in the same memory."""
    if isinstance(value, tuple):
        return tuple(map(_mark, value))
    if isinstance(value, Tensor):
        return id(value), value.data_ptr()
    return value if isinstance(value, int | float | str) else id(value)


@contextmanager
def _unchanged(generator: torch.Generator) -> Iterator[None]:
    """Noise that is drawn inside is drawn again afterwards."""
    state = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(state)


@contextmanager
def _waiting_forbidden() -> Iterator[None]:
    """What waits for the GPU raises an error. In a capture it would too, but could leave torch's generators broken.

    Torch doesn't notice all that waits; what it overlooks fails in the capture.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
