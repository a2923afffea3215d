"""The machine code of the CPU kernel's loops on the disk: kept, but never that of another source or other types."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lovasz.kernels import numba_problem

pytestmark = pytest.mark.skipif(bool(numba_problem()), reason="numba is missing")


@pytest.fixture
def loop(tmp_path: Path) -> Callable[[], Any]:
    """Loads a loop as a new process would, which knows nothing but what is on the disk."""
    file = tmp_path / "total.py"
    file.write_text(
        "from lovasz.loops import compiled\n@compiled\ndef total(x):\n    s = 0.0\n"
        "    for i in range(len(x)):\n        s += x[i]\n    return s\n"
    )

    def load() -> Any:
        spec = importlib.util.spec_from_file_location("total", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.total

    return load


FLOATS, INTS = np.array([0.5, 1.0], np.float32), np.array([3, 4], np.int32)


def test_a_new_process_finds_what_another_has_compiled(loop: Callable[[], Any]) -> None:
    first = loop()
    assert first(FLOATS) == 1.5
    assert first(INTS) == 7
    second = loop()
    assert second(INTS) == 7
    assert second(FLOATS) == 1.5
    assert sum(first.stats.cache_hits.values()) == 0
    assert sum(second.stats.cache_hits.values()) == 2


def test_a_change_of_what_loops_call_makes_all_of_them_anew(
    loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lovasz import loops

    loop()(FLOATS)
    monkeypatch.setattr(loops, "_sources", lambda: "as they are after a change")
    changed = loop()
    assert changed(FLOATS) == 1.5
    assert sum(changed.stats.cache_hits.values()) == 0
    again = loop()
    again(FLOATS)
    assert sum(again.stats.cache_hits.values()) == 1


def test_the_sources_are_all_files_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lovasz import loops

    package = Path(loops.__file__).parent
    names = ["loops.py", "kernels/bins.py", "kernels/cpu/arithmetic.py", "kernels/cpu/vectors.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((package / name).read_bytes())
    monkeypatch.setattr(loops, "__file__", str(tmp_path / "loops.py"))
    found = {loops._sources.__wrapped__()}
    for name in names:
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        found.add(loops._sources.__wrapped__())
    assert len(found) == 1 + len(names)


def test_two_processes_that_keep_two_types_at_once_do_not_mix_them_up(
    loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = loop(), loop()
    late: list[tuple[Any, ...]] = []
    ones, others = one._cache._cache_file, other._cache._cache_file
    write = ones._save_data
    monkeypatch.setattr(ones, "_save_data", lambda *what: late.append(what))
    one(FLOATS)
    with monkeypatch.context() as before:
        before.setattr(others, "_load_index", dict)  # read before the first one wrote its entry
        other(INTS)
    assert len(late) == 1
    write(*late[0])  # the first one's code comes last
    third = loop()
    assert third(INTS) == 7
    assert third(FLOATS) == 1.5


def test_where_nothing_can_be_kept_it_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose folders are all read-only: numba refuses to cache, and the loop must run all the same."""
    from lovasz import loops

    njit = loops.nb.njit

    def refuses(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*arguments, **options)

    monkeypatch.setattr(loops.nb, "njit", refuses)
    assert loops.compiled(lambda a, b: a + 2 * b)(1, 2) == 5
