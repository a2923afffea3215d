"""The Triton kernels become machine code for NVIDIA processors, which needs Triton's compiler but no GPU.

Apart from test_gpu_kernel.py, which runs them: the interpreter takes much that the compiler refuses, and the other way.
"""

import os
from typing import Any

import pytest
import torch
from losses import CASES, Case

triton = pytest.importorskip("triton", reason="triton comes with the extra gpu")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from lovasz.kernels.gpu import between, elements, passes, softmax  # noqa: E402

KERNELS = [
    *((softmax, name) for name in ("count_labels", "count_softmax", "gradient_softmax")),
    *((elements, name) for name in ("count_elements", "gradient_elements")),
    *((between, name) for name in ("deal_bins", "weigh_bins")),
]
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}
A100, H100 = 80, 90  # compute capabilities, of H200 too


class Compiler:
    """Stands where a kernel is launched: compiles it for the arguments of the launch."""

    def __init__(self, kernel: Any, capability: int, done: list[str], variants: set[Any] | None = None) -> None:
        self.kernel, self.target, self.done = kernel, GPUTarget("cuda", capability, 32), done
        self.variants = variants  # where given, each is noted and none compiled

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(0 < size < 1 << 31 for size in grid)
        return self.launch

    def launch(self, *arguments: Any, num_warps: int = 4, **named: Any) -> None:
        values = dict(zip(self.kernel.arg_names, arguments, strict=False)) | named
        assert len(arguments) + len(named) == len(values)
        assert values.keys() == set(self.kernel.arg_names)
        constants = {(p.num,): values[p.name] for p in self.kernel.params if p.is_constexpr}
        signature = {p.name: "constexpr" if p.is_constexpr else _kind(values[p.name]) for p in self.kernel.params}
        if self.variants is not None:
            special = {p.name: _special(values[p.name]) for p in self.kernel.params if not p.do_not_specialize}
            self.variants.add((self.kernel.__name__, *constants.items(), *signature.items(), *special.items()))
            return
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants)
        built = triton.compile(source, target=self.target, options={"num_warps": num_warps})
        assert built.asm["cubin"][:4] == b"\x7fELF"
        self.done.append(self.kernel.__name__)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


def _special(value: Any) -> tuple[bool, bool] | None:
    """What Triton compiles an integer for, unless it is told not to: being 1, being divisible by 16."""
    return (value == 1, value % 16 == 0) if isinstance(value, int) else None


@pytest.fixture
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Launches compile, for tensors on the CPU too; the names of the kernels that were."""
    done: list[str] = []
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, Compiler(getattr(module, name), getattr(request, "param", H100), done))
    monkeypatch.setattr("lovasz.kernels.interpreted", lambda: True)
    return done


def both_passes(case: Case, scores: torch.Tensor, target: torch.Tensor) -> None:
    """Nothing is counted and no gradient written; launches and the tables between them are as on a GPU."""
    scores = scores.requires_grad_()
    case.package(scores, target, impl="triton").backward()
    assert scores.grad is not None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_launch_of_a_loss_compiles(case: Case, compiled: list[str]) -> None:
    scores, target = case.draw(size=(16, 24))
    both_passes(case, scores.float(), target)
    of = "softmax" if case.kind == "softmax" else "elements"
    labels = ["count_labels"] if case.labelled else []
    assert compiled == [*labels, f"count_{of}", "deal_bins", f"count_{of}", "weigh_bins", f"gradient_{of}"]


@pytest.mark.parametrize(
    ("classes", "compiled"), [(150, A100), (150, H100), (1000, H100), (11, H100)], indirect=["compiled"]
)
def test_any_number_of_classes_compiles(classes: int, compiled: list[str]) -> None:
    case = Case("softmax", "softmax", classes, {"ignore_index": 255})
    both_passes(case, torch.zeros(1, classes, 4, 5), torch.zeros(1, 4, 5, dtype=torch.uint8))
    assert compiled[-1] == "gradient_softmax"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("large", [False, True], ids=["", "64-bit-offsets"])
@pytest.mark.parametrize("kind", ["softmax", "hinge"])
def test_every_number_format_and_width_of_offsets_compiles(
    kind: str, large: bool, dtype: torch.dtype, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(passes, "_LIMIT", 100)
    case = Case(kind, kind, 2 if kind == "softmax" else 1)
    scores, target = case.draw(size=(16, 24))
    both_passes(case, scores.to(dtype), target)
    assert compiled[-1].startswith("gradient")


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_other_sizes_need_no_other_machine_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variants: list[set[Any]] = []
    launched = [(module, kernel, getattr(module, kernel)) for module, kernel in KERNELS]
    monkeypatch.setattr("lovasz.kernels.interpreted", lambda: True)
    for size in ((16, 24), (40, 100), (64, 80)):  # other bins and tiles; the sample is all of them
        variants.append(set())
        for module, kernel, function in launched:
            monkeypatch.setattr(module, kernel, Compiler(function, H100, [], variants[-1]))
        case = Case(name, name, 5 if name == "softmax" else 1, {"ignore_index": 255})
        both_passes(case, *(part.clone() for part in case.draw(size=size)))
    assert variants[0] == variants[1] == variants[2]


def test_a_launch_that_the_compiler_refuses_fails_here(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    launch = softmax.count_softmax
    monkeypatch.setattr(launch, "launch", lambda *a, **named: Compiler.launch(launch, *a, **named | {"WIDTH": 100}))
    with pytest.raises(triton.compiler.errors.CompilationError, match="power of 2"):
        both_passes(CASES[0], *(part.clone() for part in CASES[0].draw()))
