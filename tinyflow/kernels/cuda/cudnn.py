"""Convolution by cuDNN, through NVIDIA's graph frontend, nvidia-cudnn-frontend.

A *plan* is what cuDNN needs to run one problem: which of its kernels, compiled where
that is needed, and how much workspace. Plans are made once for each problem, device and
setting, and kept. Buffers are channels last: x (N, H, W, C), w (K, kh, kw, C/groups),
y and g (N, H', W', K). The pixels of an x or g that is read may lie apart, as those of
a slice of the channels of a wider buffer do; weights and results have no gaps.

What cuDNN may use is said by *numerical notes* on its engines, as PyTorch does it:
strict float32 drops every engine that uses tensor cores or rounds its inputs, tf32
drops none, bfloat16 those that would round their sums; a deterministic run drops those
that add in no fixed order.

Needs frontend 1.23 or later with cuDNN 9; written against 1.23 and 1.28.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, Protocol

from tinyflow.backend import Array
from tinyflow.kernels.cuda.layout import stored
from tinyflow.kernels.cuda.settings import Settings

Shape = tuple[int, ...]
Pair = tuple[int, int]
Errors = tuple[type[Exception], ...]

FORWARD, INPUT_GRAD, WEIGHT_GRAD = "forward", "input_grad", "weight_grad"

CANDIDATES = 8
"""How many of cuDNN's proposals autotuning times: the first that can be built."""

WORKSPACE = 1 << 30
"""Bytes of workspace a plan may ask for, at most."""


class Unsupported(Exception):
    """An engine cannot do this problem; the message says why, in a line."""


class NotCapturable(RuntimeError):
    """Something would have to happen now that cannot while a stream is captured."""


class Problem(NamedTuple):
    """One convolution or gradient of one, completely.

    Shapes are logical: x (N, C, H, W), w (K, C/groups, kh, kw), y (N, K, H', W').
    """

    kind: str
    x: Shape
    w: Shape
    y: Shape
    stride: Pair
    padding: tuple[int, int, int, int]
    """Top, bottom, left, right."""
    dilation: Pair
    groups: int
    dtype: str
    """Of all three arrays: float32 or bfloat16."""
    gaps: Pair = (0, 0)
    """Entries between two pixels of the first and of the second operand."""

    def __str__(self) -> str:
        apart = f", gaps {self.gaps}" if any(self.gaps) else ""
        return (
            f"{self.kind} of x {self.x}, w {self.w}, stride {self.stride}, padding "
            f"{self.padding}, dilation {self.dilation}, groups {self.groups}, "
            f"{self.dtype}{apart}"
        )


class Key(NamedTuple):
    """What a plan is kept under: nothing else may change which plan is right."""

    problem: Problem
    precision: str
    deterministic: bool
    tuned: bool
    device: int


class Plan(NamedTuple):
    """A problem ready to run: the graph, its three tensors, the choice, its needs."""

    graph: Any
    first: Any
    second: Any
    result: Any
    choice: int | None
    """Which of the graph's plans, or None for the one that it was built with."""
    workspace: int
    """Bytes."""


class Device(Protocol):
    """What the plans need of the GPU; :class:`tinyflow.kernels.cuda.device.Gpu`."""

    def number(self) -> int:
        """Of the current device."""

    def stream(self) -> int:
        """The current stream's address."""

    def capturing(self) -> bool:
        """Whether the current stream is being captured."""

    def outside(self) -> AbstractContextManager[object]:
        """Run a block beside a capture: its work is done when the block ends.

        Where nothing is being captured, the block runs as it is.
        """

    def aside(self) -> AbstractContextManager[object]:
        """Run a block on a second stream, after what the current one has been given."""

    def mark(self) -> Any:
        """This moment of the current stream."""

    def wait(self, moment: Any) -> None:
        """What the current stream is given next begins after that moment."""

    def bytes(self, size: int) -> Array:
        """New device memory."""

    def empty(self, shape: Shape, like: Array) -> Array:
        """A new C-ordered array of `like`'s dtype."""

    def address(self, array: Array) -> int:
        """Where an array begins."""

    def replayed(self, run: Callable[[Array], None], workspace: int) -> float:
        """Device milliseconds of one `run` among several in a replayed graph.

        `run` is given that many bytes, which are freed when all is over.
        """

    def check(self) -> None:
        """Wait for the device; an error if it can no longer be used."""


class Cudnn:
    """cuDNN as a convolution engine.

    Args:
        module: the frontend, ``import cudnn``.
        device: the GPU.
    """

    name = "cudnn"
    strided = True

    def __init__(self, module: Any, device: Device) -> None:
        self.module, self.device = module, device
        self.plans: dict[Key, Plan] = {}
        self._handles: dict[tuple[int, int], Any] = {}

    def prepare(self) -> None:
        """Make the current stream's handle."""
        self._handle()

    def run(
        self, problem: Problem, first: Array, second: Array, settings: Settings
    ) -> Array:
        """The result of a problem for its two operands, a new buffer.

        Args:
            problem: what to compute.
            first: x, or for the input's gradient g.
            second: w, or for the weight's gradient g.
            how: precision, determinism and tuning.

        Raises:
            Unsupported: cuDNN has no engine for it under these settings.
            NotCapturable: a plan would have to be made while a stream is captured.
        """
        key = Key(
            problem,
            settings.precision,
            settings.deterministic,
            settings.tunes,
            self.device.number(),
        )
        out = self.device.empty(stored(_result_shape(problem)), first)
        plan = self.plans.get(key)
        if plan is None:
            if self.device.capturing():
                raise NotCapturable(f"cuDNN has no plan yet for {problem}")
            plan = self.plans[key] = self._plan(problem, settings, (first, second, out))
        # Freed on return, which is fine: the pool gives it out again in stream order.
        room = self.device.bytes(max(plan.workspace, 1))
        self._execute(plan, first, second, out, room)
        return out

    def _execute(
        self, plan: Plan, first: Array, second: Array, out: Array, room: Array
    ) -> None:
        address = self.device.address
        pack = {
            plan.first: address(first),
            plan.second: address(second),
            plan.result: address(out),
        }
        handle = self._handle()
        if plan.choice is None:
            plan.graph.execute(pack, address(room), handle=handle)
        else:
            plan.graph.execute_plan_at_index(
                pack, address(room), index=plan.choice, handle=handle
            )

    def _handle(self) -> Any:
        """The handle of the current stream; one each, for a handle keeps its stream."""
        stream = self.device.stream()
        key = (self.device.number(), stream)
        if key not in self._handles:
            handle = self.module.create_handle()
            self.module.set_stream(handle=handle, stream=stream)
            self._handles[key] = handle
        return self._handles[key]

    # --- planning --------------------------------------------------------------------

    def _plan(
        self, problem: Problem, settings: Settings, arrays: tuple[Array, ...]
    ) -> Plan:
        errors: Errors = (self.module.cudnnGraphNotSupportedError, RuntimeError)
        try:
            graph, tensors = self._graph(problem)
            graph.validate()
            graph.build_operation_graph()
            modes = self.module.heur_mode
            graph.create_execution_plans([modes.A, modes.FALLBACK])
            graph.deselect_numeric_notes(self.refused_notes(settings))
            graph.deselect_workspace_greater_than(WORKSPACE)
            graph.check_support()
            if settings.tunes:
                return self._fastest(graph, tensors, arrays, errors)
            graph.build_plans()
            return Plan(graph, *tensors, None, int(graph.get_workspace_size()))
        except errors as error:
            self.device.check()  # a GPU that failed answers so too, which is no refusal
            raise Unsupported(_line(error)) from error

    def refused_notes(self, settings: Settings) -> list[Any]:
        """Engines with one of these notes are not used; see above."""
        note = self.module.numerical_note
        refused = {
            "float32": [
                note.TENSOR_CORE,
                note.DOWN_CONVERT_INPUTS,
                note.REDUCED_PRECISION_REDUCTION,
            ],
            "tf32": [],
            "bfloat16": [note.REDUCED_PRECISION_REDUCTION],
        }[settings.precision]
        return [*refused, note.NONDETERMINISTIC] if settings.deterministic else refused

    def _graph(self, problem: Problem) -> tuple[Any, tuple[Any, Any, Any]]:
        """The graph of one node, and its tensors: two operands and the result."""
        types = self.module.data_type
        io = types.BFLOAT16 if problem.dtype == "bfloat16" else types.FLOAT
        graph = self.module.pygraph(
            handle=self._handle(),
            io_data_type=io,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
        )

        def tensor(name: str, shape: Shape, gap: int = 0) -> Any:
            return graph.tensor(
                name=name, dim=list(shape), stride=_strides(shape, gap), data_type=io
            )

        top, bottom, left, right = problem.padding
        options = {
            "pre_padding": [top, left],
            "post_padding": [bottom, right],
            "stride": list(problem.stride),
            "dilation": list(problem.dilation),
        }
        before, after = problem.gaps
        if problem.kind == FORWARD:
            a, b = tensor("x", problem.x, before), tensor("w", problem.w)
            result = graph.conv_fprop(image=a, weight=b, **options)
        elif problem.kind == INPUT_GRAD:
            a, b = tensor("g", problem.y, before), tensor("w", problem.w)
            result = graph.conv_dgrad(loss=a, filter=b, **options)
        else:
            a, b = tensor("x", problem.x, before), tensor("g", problem.y, after)
            result = graph.conv_wgrad(image=a, loss=b, **options)
        shape = _result_shape(problem)
        # Left alone, the result would be laid out channels first.
        result.set_dim(list(shape)).set_stride(_strides(shape))
        result.set_output(True).set_data_type(io)
        return graph, (a, b, result)

    def _fastest(
        self,
        graph: Any,
        tensors: tuple[Any, Any, Any],
        arrays: tuple[Array, ...],
        errors: Errors,
    ) -> Plan:
        """The fastest of the first proposals that can be built and run.

        Strict float32 refuses most of the list, so what counts is how many were built.
        """
        declines: Errors = (*errors, ValueError)  # the last: it has a refused note
        why: Exception | None = None
        built: list[Plan] = []
        for index in range(graph.get_execution_plan_count()):
            if len(built) == CANDIDATES:
                break
            try:
                graph.build_plan_at_index(index)
                size = int(graph.get_workspace_size_plan_at_index(index))
                built.append(Plan(graph, *tensors, index, size))
            except declines as error:
                why = error
        times: dict[float, Plan] = {}
        for plan in built:
            if plan.workspace > WORKSPACE:
                continue
            try:
                run = partial(self._execute, plan, *arrays)
                times.setdefault(self.device.replayed(run, plan.workspace), plan)
            except declines as error:
                why = error
        if not times:
            self.device.check()
            raise Unsupported(_line(why) if why else "cuDNN proposes nothing") from why
        return times[min(times)]


def _line(error: Exception) -> str:
    """The first line of what cuDNN says."""
    return str(error).strip().split("\n")[0][:200]


def _result_shape(problem: Problem) -> Shape:
    """The logical shape of what a problem computes."""
    return {FORWARD: problem.y, INPUT_GRAD: problem.x, WEIGHT_GRAD: problem.w}[
        problem.kind
    ]


def _strides(shape: Shape, gap: int = 0) -> list[int]:
    """Of the logical axes, in entries, for a buffer that is channels last.

    `gap` entries lie between two pixels.
    """
    _, c, h, w = shape
    pixel = c + gap
    return [h * w * pixel, 1, w * pixel, pixel]
