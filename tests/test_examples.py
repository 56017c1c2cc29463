r"""Each example runs, with small settings, and shows what it claims."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pyro

EXAMPLES = Path(__file__).parent.parent / "examples"


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_aevb_by_pyro_svi_raises_the_elbo() -> None:
    try:
        found = _example("aevb_with_pyro_svi").main(epochs=3)
    finally:
        pyro.clear_param_store()
    assert found["after"] > found["before"] + 10
