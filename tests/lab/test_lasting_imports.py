"""Imports without the collector of garbage: it goes on afterwards, and does not go through what was imported again."""

import gc
import subprocess
import sys

import pytest

from lovasz.lab.imports import lasting


def test_what_is_made_meanwhile_is_not_gone_through_again() -> None:
    with lasting():
        assert not gc.isenabled()
        made = [[]]
    later = [[]]
    tracked = {id(one) for one in gc.get_objects()}
    assert id(made) not in tracked
    assert id(later) in tracked


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_also_after_a_failed_import(enabled: bool) -> None:
    try:
        (gc.enable if enabled else gc.disable)()
        with lasting():
            pass
        assert gc.isenabled() == enabled
        with pytest.raises(ImportError), lasting():
            import there_is_no_such_package  # noqa: F401  # pyright: ignore[reportMissingImports]
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_predicting_loads_nothing_that_trains_or_scores() -> None:
    code = "import sys, lovasz.lab.predict; print(sorted({'lightning', 'torchmetrics', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
