"""The operations that the losses need from a framework; each port fills them in with its own."""

from __future__ import annotations

from typing import Any, Protocol


class Arrays(Protocol):
    """The array operations of one framework. Arrays also have Python's operators, shapes and broadcasting.

    Dtypes go by name: "bool", "int32", "float32", "float64".
    """

    def array(self, value: Any) -> Any:
        """An array of the framework from anything that it takes."""
        ...

    def constant(self, values: Any, dtype: str) -> Any:
        """An array of Python numbers."""
        ...

    def dtype(self, x: Any) -> str:
        """The name of the dtype."""
        ...

    def static_shape(self, x: Any) -> tuple[int | None, ...]:
        """The sizes, None where they are known only when the compiled function runs."""
        ...

    def shape(self, x: Any) -> tuple[Any, ...]:
        """The sizes, as scalar arrays where they are known only when the compiled function runs."""
        ...

    def holds(self, condition: Any) -> bool | None:
        """The value of a scalar bool array, or None while it is being traced and has none."""
        ...

    def cast(self, x: Any, dtype: str) -> Any:
        """The array in another dtype."""
        ...

    def ones_like(self, x: Any, dtype: str) -> Any:
        """Ones in the shape of an array."""
        ...

    def bits(self, x: Any) -> Any:
        """The bits of float32 numbers as int32."""
        ...

    def shift_right(self, x: Any, by: int) -> Any:
        """Integers without their lowest bits."""
        ...

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """x where the condition holds, else y."""
        ...

    def minimum(self, x: Any, y: Any) -> Any:
        """The smaller, elementwise."""
        ...

    def maximum(self, x: Any, y: Any) -> Any:
        """The larger, elementwise."""
        ...

    def exp(self, x: Any) -> Any:
        """The exponential."""
        ...

    def log1p(self, x: Any) -> Any:
        """log(1 + x) without loss for small x."""
        ...

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + exp(-x)), with all its digits where it is small."""
        ...

    def softmax(self, x: Any) -> Any:
        """The softmax over the last axis."""
        ...

    def sum(self, x: Any, axis: int | tuple[int, ...], keepdims: bool = False) -> Any:
        """The sum over axes; of int32 in int32."""
        ...

    def max(self, x: Any, axis: tuple[int, ...]) -> Any:
        """The largest element over axes, which stay with size 1."""
        ...

    def any(self, x: Any) -> Any:
        """Whether any element is true."""
        ...

    def cumsum(self, x: Any) -> Any:
        """The running sum along the last axis; of int32 in int32."""
        ...

    def reshape(self, x: Any, shape: tuple[Any, ...]) -> Any:
        """The array in another shape, of which one size may be -1."""
        ...

    def transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        """The array with its axes in another order."""
        ...

    def expand(self, x: Any, axis: int) -> Any:
        """The array with a new axis of size 1."""
        ...

    def stack(self, parts: list[Any]) -> Any:
        """Arrays side by side along a new axis 1."""
        ...

    def arange(self, size: Any) -> Any:
        """0, 1, ... as int32."""
        ...

    def descending(self, x: Any) -> Any:
        """For each row of a matrix, the order (int32) in which its numbers decrease."""
        ...

    def take(self, x: Any, index: Any) -> Any:
        """Elements of a flat array by an int32 index of any shape."""
        ...

    def add_up(self, values: Any | None, index: Any, size: Any) -> Any:
        """A flat array of ``size`` sums: of the values that share an index (both flat; the index int32 and within).

        Without values the sums are int32 counts.
        """
        ...

    def constant_of(self, x: Any) -> Any:
        """The array as a constant for the gradient."""
        ...
