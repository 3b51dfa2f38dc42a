"""How is code written that a compiler cannot fail to vectorise? On LLVM's own vectors.

Left to itself, LLVM turns loops with ``exp`` into one call per number, and short loops into no
vectors at all. ``Vector`` has operators that *write* vector instructions: what is built of them
runs once, while a training step is compiled, and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

Builder = Any
"""An ir.IRBuilder: llvmlite has no types."""

intrinsic: Any = _intrinsic

INT32, INT64, BIT = ir.IntType(32), ir.IntType(64), ir.IntType(1)


def _registers() -> tuple[int, int]:
    features = {name for name, there in llvm.get_host_cpu_features().items() if there}
    if "avx512f" in features:
        return 32, 64
    return (16, 32) if "avx" in features else (32 if "neon" in features else 16, 16)


REGISTERS, REGISTER_BYTES = _registers()
"""How many vector registers there are, and bytes of the widest; LLVM splits what is too wide."""


@dataclass(frozen=True)
class Float:
    """What the formulas must know of a dtype.

    Attributes:
        type: LLVM's.
        bits: of a number, and ``fraction`` of its fraction.
        bias: of its exponent.
        ln2: the high part of ln 2, whose products with exponents are exact, and the rest.
        exponents: where e^x is 0 below and infinite above.
        exp_terms: of the series of e^x for |x| <= ln(2) / 2 that are not rounded away.
        log_terms: of that of 2 artanh(w) for w <= 1/3.
    """

    type: ir.Type
    bits: int
    fraction: int
    bias: int
    ln2: tuple[float, float]
    exponents: tuple[float, float]
    exp_terms: int
    log_terms: int

    @property
    def lanes(self) -> int:
        """Numbers in a register."""
        return REGISTER_BYTES * 8 // self.bits


FLOATS = {
    "float32": Float(
        ir.FloatType(), 32, 23, 127, (0.693359375, -2.12194440e-4), (-104.0, 89.0), 7, 8
    ),
    "float64": Float(
        ir.DoubleType(), 64, 52, 1023, (0.693145751953125, 1.42860682030941723212e-6),
        (-746.0, 710.0), 13, 17,
    ),
}  # fmt: skip


class Vector:
    """A value of the program that is being written; numbers beside it stand for all lanes."""

    def __init__(self, builder: Builder, kind: Float, value: Any) -> None:
        self.builder, self.kind, self.value = builder, kind, value

    @property
    def type(self) -> ir.VectorType:
        return ir.VectorType(self.kind.type, self.kind.lanes)

    @property
    def integers(self) -> ir.VectorType:
        return ir.VectorType(ir.IntType(self.kind.bits), self.kind.lanes)

    def like(self, value: Any) -> Vector:
        return Vector(self.builder, self.kind, value)

    def operand(self, other: Vector | float) -> Any:
        """The value of a vector, or of a number in all lanes."""
        if isinstance(other, Vector):
            return other.value
        return ir.Constant(self.type, [float(other)] * self.kind.lanes)

    def integer(self, number: int) -> ir.Constant:
        return ir.Constant(self.integers, [number] * self.kind.lanes)

    def __add__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fadd(self.value, self.operand(other)))

    def __sub__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fsub(self.value, self.operand(other)))

    def __mul__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fmul(self.value, self.operand(other)))

    def __truediv__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fdiv(self.value, self.operand(other)))

    def __rsub__(self, other: float) -> Vector:
        return self.like(self.builder.fsub(self.operand(other), self.value))

    def __rtruediv__(self, other: float) -> Vector:
        return self.like(self.builder.fdiv(self.operand(other), self.value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Vector:
        return self.like(self.builder.fneg(self.value))

    def below(self, other: Vector | float) -> Any:
        """A mask; where one of both is nan, it is not set."""
        return self.builder.fcmp_ordered("<", self.value, self.operand(other))

    def above(self, other: Vector | float) -> Any:
        return self.builder.fcmp_ordered(">", self.value, self.operand(other))

    def where(self, mask: Any, other: Vector | float) -> Vector:
        """This where the mask is set, the other elsewhere."""
        return self.like(self.builder.select(mask, self.value, self.operand(other)))

    def at_least(self, other: Vector | float) -> Vector:
        """The larger of both; nan stays nan."""
        return self.like(self.operand(other)).where(self.below(other), self)

    def at_most(self, other: Vector | float) -> Vector:
        return self.like(self.operand(other)).where(self.above(other), self)

    def magnitude(self) -> Vector:
        return self._call("llvm.fabs")

    def root(self) -> Vector:
        return self._call("llvm.sqrt")

    def with_sign_of(self, other: Vector) -> Vector:
        return self._call("llvm.copysign", other)

    def times_plus(self, factor: Vector | float, term: Vector | float) -> Vector:
        """self * factor + term, in one instruction where the processor has one."""
        return self._call("llvm.fmuladd", factor, term)

    def _call(self, name: str, *others: Vector | float) -> Vector:
        arguments = [self.value, *map(self.operand, others)]
        return self.like(call(self.builder, name, [suffix(self.type)], self.type, arguments))

    def as_integers(self) -> Any:
        return self.builder.bitcast(self.value, self.integers)

    def from_integers(self, value: Any) -> Vector:
        return self.like(self.builder.bitcast(value, self.type))

    def sum(self) -> Any:
        """The sum of all lanes, halves first, so that it is log2(lanes) additions."""
        return self._reduced(lambda one, other: self.builder.fadd(one, other))

    def largest(self) -> Any:
        """The largest lane; nan is passed over."""
        select, greater = self.builder.select, self.builder.fcmp_ordered
        return self._reduced(lambda one, other: select(greater(">", one, other), one, other))

    def _reduced(self, combine: Any) -> Any:
        value, lanes = self.value, self.kind.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (
                self.builder.shuffle_vector(
                    value, value, ir.Constant(ir.VectorType(INT32, lanes), list(part))
                )
                for part in (range(lanes), range(lanes, 2 * lanes))
            )
            value = combine(low, high)
        return self.builder.extract_element(value, INT32(0))


def suffix(kind: ir.Type) -> str:
    """How the names of LLVM's functions say a type: v16f32."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    if isinstance(kind, ir.PointerType):
        return "p0"
    return {ir.FloatType(): "f32", ir.DoubleType(): "f64"}[kind]


def call(
    builder: Builder, name: str, types: list[str], result: ir.Type, arguments: list[Any]
) -> Any:
    """Call one of LLVM's own functions."""
    full = ".".join([name, *types])
    module = builder.module
    function = module.globals.get(full)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(module, kind, full)
    return builder.call(function, arguments)


class Program:
    """Where a piece of compiled code is written: LLVM's builder, and the dtype of its numbers."""

    def __init__(self, builder: Builder, kind: Float) -> None:
        self.builder, self.kind = builder, kind
        self.shape = ir.VectorType(kind.type, kind.lanes)

    def splat(self, scalar: Any) -> Vector:
        """A number of the running program in all lanes."""
        lanes = self.kind.lanes
        undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, INT32(0))
        zeros = ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes)
        return Vector(self.builder, self.kind, self.builder.shuffle_vector(one, one, zeros))

    def vector(self, place: Any) -> Vector:
        """A vector in memory, as ``filled`` makes it."""
        return Vector(self.builder, self.kind, self.builder.load(place))

    def filled(self, number: float = 0.0) -> Any:
        """A vector in memory, which LLVM turns into a register; ``number`` in all lanes."""
        place = cgutils.alloca_once(self.builder, self.shape)
        self.builder.store(ir.Constant(self.shape, [number] * self.kind.lanes), place)
        return place

    def registers(self, count: Any) -> Iterator[Slice]:
        """A loop over ``count`` numbers of some arrays; what follows in a ``for`` is its body."""
        lanes = INT64(self.kind.lanes)
        with cgutils.for_range_slice(self.builder, INT64(0), count, lanes, INT64) as (start, _):
            yield self.slice(start, self.builder.sub(count, start))

    def slice(self, start: Any, count: Any) -> Slice:
        """A register's numbers from ``start`` on; only the first ``count`` of them where that is
        less than a register has."""
        lanes = ir.VectorType(INT64, self.kind.lanes)
        numbers = ir.Constant(lanes, list(range(self.kind.lanes)))
        mask = self.builder.icmp_signed("<", numbers, self.splat(count).value)
        return Slice(self, start, mask)


class Slice(NamedTuple):
    """A register's place in arrays; the lanes outside the mask are neither read nor written."""

    program: Program
    start: Any
    mask: Any

    def load(self, array: Any, other: float = 0.0) -> Vector:
        """The numbers of an array; ``other`` outside the mask."""
        program, shape = self.program, self.program.shape
        builder, kind = program.builder, program.kind
        place = builder.bitcast(builder.gep(array, [self.start]), shape.as_pointer())
        spare = ir.Constant(shape, [other] * kind.lanes)
        given = [place, INT32(kind.bits // 8), self.mask, spare]
        value = call(builder, "llvm.masked.load", [suffix(shape), "p0"], shape, given)
        return Vector(builder, kind, value)

    def store(self, vector: Vector, array: Any) -> None:
        """Write into an array."""
        program, shape = self.program, self.program.shape
        builder, align = program.builder, INT32(program.kind.bits // 8)
        place = builder.bitcast(builder.gep(array, [self.start]), shape.as_pointer())
        given = [vector.value, place, align, self.mask]
        call(builder, "llvm.masked.store", [suffix(shape), "p0"], ir.VoidType(), given)

    def add(self, part: Vector, total: Any) -> None:
        """Add the lanes of the mask to a vector in memory."""
        added = part.where(self.mask, 0.0) + self.program.vector(total)
        self.program.builder.store(added.value, total)


def float_of(pointer: Any) -> Float:
    return FLOATS[str(pointer.dtype)]


def piece(write: Callable[..., Any], gives_number: bool = False) -> Any:
    """What compiled code calls, of a function (program, arguments) that writes its instructions.

    Whole numbers are taken as int64, others in the dtype of the first pointer, which is the
    program's; so is what is returned, if anything.
    """

    @wraps(write)
    def typed(context: Any, *given: Any) -> Any:
        pointers = [one for one in given if isinstance(one, types.CPointer)]
        number = pointers[0].dtype

        def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
            found = write(Program(builder, float_of(pointers[0])), *arguments)
            return found if gives_number else context.get_dummy_value()

        def taken(one: Any) -> Any:
            if isinstance(one, types.Integer):
                return types.intp
            return number if isinstance(one, types.Float) else one

        return (number if gives_number else types.void)(*map(taken, given)), generate

    return intrinsic(typed)


sum_piece = partial(piece, gives_number=True)
