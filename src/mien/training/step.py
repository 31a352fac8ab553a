"""Loss and gradients of a batch, computed in as few operations as possible.

A small network on a GPU mostly waits for Python to start the next operation. Three things help: weights are cast to
bfloat16 all at once instead of layer by layer, query, key and value are one product, and on a GPU the whole pass
(teachers included) is recorded as a CUDA graph, which then takes one call. None changes more than rounding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import torch
from accelerate import Accelerator
from torch import nn

from mien.errors import first_line
from mien.log import say, warn
from mien.training.run import on_main

WARM_UPS = 3
"""Passes before a CUDA graph is recorded, in which libraries choose their kernels and constants reach the device."""

PROJECTIONS: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
"""Names of the query, key and value of an attention in transformers; timm's are one product already."""

Loss = Callable[..., torch.Tensor]
"""The loss of a batch: tensors to float32 []."""


def method_of(setting: str, accelerator: Accelerator) -> str:
    """How a pass runs: ``graph``, ``on`` (torch.compile) or ``off``.

    ``auto`` is a CUDA graph on a GPU, which takes about a second to record; torch.compile takes a minute or more. A
    graph does not fit several processes, whose gradients are exchanged during the pass, nor another device.
    """
    can_record = accelerator.device.type == "cuda" and accelerator.num_processes == 1
    if setting == "auto":
        return "graph" if can_record else "off"
    return "off" if setting == "graph" and not can_record else setting


class Joint:
    """The query, key and value of an attention as one product, since they read the same input.

    Their bfloat16 weights lie in one matrix, the rows of one layer after those of another. The first layer that is
    called computes the outputs of all; the others take theirs. Gradients for the input are summed in float32 inside
    the product, where three products would round each of them.

    Args:
        layers: with as many inputs each, all with a bias or none.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = layers
        self.sizes = [layer.out_features for layer in layers]
        self.parameters = {
            name: _half(torch.cat([getattr(layer, name) for layer in layers]), weight.requires_grad)
            for name, weight in layers[0].named_parameters(recurse=False)
        }
        self.forget()

    def forget(self) -> None:
        """Lets go of the last input and its outputs, which take memory."""
        self.input: torch.Tensor | None = None
        self.outputs: dict[int, torch.Tensor] = {}

    def output(self, number: int, values: torch.Tensor) -> torch.Tensor:
        """What the layer of a number answers for [..., inputs]: [..., outputs]."""
        if self.input is not values or number not in self.outputs:
            product = nn.functional.linear(values, self.parameters["weight"], self.parameters.get("bias"))
            self.input, self.outputs = values, dict(enumerate(product.split(self.sizes, dim=-1)))
        output = self.outputs.pop(number)
        if not self.outputs:
            self.forget()
        return output

    def stand_in(self) -> None:
        """Answers instead of the layers."""
        for number, layer in enumerate(self.layers):
            layer.forward = partial(self.output, number)  # type: ignore[method-assign]

    def step_back(self) -> None:
        """Lets the layers answer for themselves."""
        self.forget()
        for layer in self.layers:
            layer.__dict__.pop("forward", None)


def _half(weight: torch.Tensor, is_trained: bool) -> nn.Parameter:
    return nn.Parameter(weight.detach().bfloat16(), requires_grad=is_trained)


def joints(network: nn.Module) -> list[Joint]:
    """The attentions of a network whose query, key and value can be one product."""
    uses = Counter(id(weight) for layer in network.modules() for weight in layer.parameters(recurse=False))

    def kind(layer: nn.Linear) -> tuple[object, ...]:
        weights = layer.named_parameters(recurse=False)
        return layer.in_features, *((name, weight.requires_grad) for name, weight in weights)

    made = []
    for attention in network.modules():
        layers = [layer for name in PROJECTIONS if type(layer := getattr(attention, name, None)) is nn.Linear]
        kinds = {kind(layer) for layer in layers}
        is_shared = any(uses[id(weight)] > 1 for layer in layers for weight in layer.parameters(recurse=False))
        if len(layers) == len(PROJECTIONS) and len(kinds) == 1 and not is_shared:
            made.append(Joint(layers))
    return made


class HalfCopies:
    """bfloat16 copies of the weights of plain linear layers and convolutions.

    Under autocast each of these would be cast at every step, and its gradient cast back. The copies are refreshed by
    one operation for all, stand in for the weights during a pass, and their gradients are handed to the weights by one
    more. The numbers are those of autocast but for ``Joint``, which rounds less often.

    Args:
        network: on the device; its weights stay where they are in memory.
    """

    def __init__(self, network: nn.Module) -> None:
        self.joints = joints(network)
        self.slots: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        places: dict[int, tuple[nn.Parameter, nn.Parameter, slice]] = {}
        for joint in self.joints:
            for name, half in joint.parameters.items():
                for layer, end in zip(joint.layers, accumulate(joint.sizes), strict=True):
                    weight = getattr(layer, name)
                    places[id(weight)] = (weight, half, slice(end - len(weight), end))
        joined = {layer for joint in self.joints for layer in joint.layers}
        for part in network.modules():
            if type(part) in (nn.Linear, nn.Conv2d) and part not in joined:  # a subclass may compute in another way
                for name, weight in part.named_parameters(recurse=False):
                    if id(weight) not in places:
                        places[id(weight)] = (weight, _half(weight, weight.requires_grad), slice(None))
                    self.slots.append((part, name, weight, places[id(weight)][1]))
        self.places = list(places.values())
        self.weights = [weight for weight, _, _ in self.places]
        self.values = [half.data[rows] for _, half, rows in self.places]
        self.gradients = [torch.empty_like(weight) for weight in self.weights]

    @torch.no_grad()
    def stand_in(self) -> None:
        """Refreshes the copies and puts them in the places of the weights."""
        torch._foreach_copy_(self.values, list[torch.Tensor](self.weights))
        for layer, name, _, half in self.slots:
            layer._parameters[name] = half
        for joint in self.joints:
            joint.stand_in()

    def step_back(self) -> None:
        """Puts the weights back in their places."""
        for joint in self.joints:
            joint.step_back()
        for layer, name, weight, _ in self.slots:
            layer._parameters[name] = weight

    @torch.no_grad()
    def hand_over(self) -> None:
        """Gives the weights the gradients of their copies, in float32."""
        pairs = [
            (weight, gradient, half.grad[rows])
            for (weight, half, rows), gradient in zip(self.places, self.gradients, strict=True)
            if half.grad is not None
        ]
        if pairs:
            torch._foreach_copy_([gradient for _, gradient, _ in pairs], [half for _, _, half in pairs])
        for weight, gradient, _ in pairs:
            weight.grad = gradient
        for _, half, _ in self.places:
            half.grad = None


class Recorded:
    """A function of tensors that is recorded as a CUDA graph at its first call and replayed afterwards.

    If it cannot be recorded, a warning says why, and it runs operation by operation.

    Args:
        call: computes a tensor from tensors. Their shapes stay; nothing in it depends on values that the host knows.
            Random numbers are drawn anew in each replay, from torch's generator of the device.
        what: names the function in messages.
        restored: tensors that the passes before the recording must not change, like running statistics.
        between: called before each of these passes and before the recording.
    """

    def __init__(
        self,
        call: Callable[..., torch.Tensor],
        what: str,
        restored: Callable[[], list[torch.Tensor]] = list,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.call, self.what, self.restored, self.between = call, what, restored, between
        self.graph: torch.cuda.CUDAGraph | None = None
        self.has_failed = False
        self.inputs: list[torch.Tensor] = []
        self.output = torch.zeros(0)

    def __call__(self, *batch: torch.Tensor) -> torch.Tensor:
        """Returns the result, which the next call overwrites."""
        if self.graph is None and not self.has_failed:
            self.try_to_record(batch)
        if self.graph is None:
            return self.call(*batch)
        torch._foreach_copy_(self.inputs, list(batch))
        self.graph.replay()
        return self.output

    def try_to_record(self, batch: tuple[torch.Tensor, ...]) -> None:
        """Records the function for tensors of these shapes, or warns."""
        started = time.monotonic()
        try:
            self.record(batch)
        except RuntimeError as error:
            self.has_failed = True
            self.between()
            first = first_cause(error)
            reason = first_line(first)
            if on_main():
                warn(f"no CUDA graph of {self.what} ({reason}); it runs operation by operation")
        else:
            if on_main():
                say(f"{self.what} recorded as a CUDA graph in {time.monotonic() - started:.1f} s")

    def record(self, batch: tuple[torch.Tensor, ...]) -> None:
        """Records the function for tensors of these shapes."""
        inputs = [part.detach().clone() for part in batch]
        tensors = self.restored()
        saved = [value.clone() for value in tensors]
        stream, former_stream = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(former_stream)
        generator = torch.cuda.default_generators[former_stream.device_index]
        random_state = generator.clone_state()
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self.between()
                    self.call(*inputs)
            former_stream.wait_stream(stream)
            self.between()
            graph = torch.cuda.CUDAGraph()
            # thread_local: another thread of this process (a progress bar, a writer) may use the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.output = self.call(*inputs)
        except RuntimeError:
            # torch stays on the stream of the recording then, and its random numbers wait for the recording to go on.
            torch.cuda.set_stream(former_stream)
            generator.graphsafe_set_state(random_state)
            raise
        finally:
            for value, former in zip(tensors, saved, strict=True):
                value.copy_(former)
        self.inputs, self.graph = inputs, graph


def first_cause(error: BaseException) -> BaseException:
    """The error that came first: the end of a failed recording raises another one, which says only that it failed."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Pass:
    """The forward and backward pass of a step.

    Args:
        loss: of a batch; it runs ``network`` under autocast of its own.
        network: whose gradients are computed.
        accelerator: of this run.
        method: as ``method_of`` returns it. With ``on`` the caller compiles the network, and its time is reported here.
        half: the pass computes in bfloat16.
    """

    def __init__(self, loss: Loss, network: nn.Module, accelerator: Accelerator, method: str, *, half: bool) -> None:
        self.loss, self.network, self.accelerator, self.method = loss, network, accelerator, method
        alone = accelerator.num_processes == 1
        self.copies = HalfCopies(network) if half and alone and method != "on" else None
        self.recorded = Recorded(self.eager, "training step", lambda: list(network.buffers()), self._clear)
        self.gradients: list[tuple[nn.Parameter, torch.Tensor]] = []
        self.is_first = True

    def __call__(self, *batch: torch.Tensor) -> torch.Tensor:
        """Computes the loss, float32 [], detached, and leaves the gradients in the parameters."""
        started, is_first, self.is_first = time.monotonic(), self.is_first, False
        if self.method == "graph":
            return self._replay(*batch)
        loss = self.eager(*batch)
        if is_first and self.method == "on" and on_main():
            loss.item()  # waits for the device
            say(f"training step compiled in {time.monotonic() - started:.1f} s")
        return loss

    def _replay(self, *batch: torch.Tensor) -> torch.Tensor:
        loss = self.recorded(*batch)
        if self.recorded.graph is not None:
            self.gradients = self.gradients or [(p, p.grad) for p in self.network.parameters() if p.grad is not None]
            for parameter, gradient in self.gradients:
                parameter.grad = gradient  # the optimizer took it away
        return loss

    def _clear(self) -> None:
        """Forgets gradients, so that the next pass makes its own."""
        for parameter in self.network.parameters():
            parameter.grad = None

    def eager(self, *batch: torch.Tensor) -> torch.Tensor:
        """The pass, operation by operation."""
        if self.copies is None:
            loss = self.loss(*batch)
            self._backward(loss)
            return loss.detach()
        self.copies.stand_in()
        try:
            loss = self.loss(*batch)
        finally:
            self.copies.step_back()
        self._backward(loss)
        self.copies.hand_over()
        return loss.detach()

    def _backward(self, loss: torch.Tensor) -> None:
        if self.accelerator.num_processes == 1:
            loss.backward()
        else:
            self.accelerator.backward(loss)
