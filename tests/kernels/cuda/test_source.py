"""The CUDA sources: every variant compiles, and Python agrees with the macros."""

import ctypes
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.ops.windows import window
from tinyflow.kernels.cuda import launch, loss, module, optim, product, source
from tinyflow.kernels.cuda.source import UNITS, Variant, variants

ARCHITECTURES = ("80", "90")
NVCC = shutil.which("nvcc")


def test_every_file_is_a_unit() -> None:
    assert {path.stem for path in source.FOLDER.glob("*.cu")} == set(UNITS)


def test_variants() -> None:
    names = {str(v) for v in variants()}
    assert len(names) == len(variants()) == sum(4 if v else 2 for v in UNITS.values())
    assert {"norm-bfloat16-8", "norm-float32-4", "loss-float32-1"} <= names
    assert Variant("norm", "bfloat16", 8).options == ("-DVEC=8", "-DBF16=1")
    assert Variant("norm").options == ("-DVEC=1",)
    for wrong in (("norms",), ("norm", "float64"), ("norm", "float32", 8)):
        with pytest.raises(ValueError):
            Variant(*wrong)
    with pytest.raises(ValueError, match="vectors of 1 or 1"):
        Variant("loss", "float32", 4)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_one_ascii_text(unit: str) -> None:
    text = source.text(unit)
    assert text.isascii() and "#include" not in text and "#pragma once" not in text
    assert text.count("typedef float T;") == 1


@pytest.mark.parametrize("unit", UNITS)
def test_every_kernel_is_found_and_launched(unit: str) -> None:
    names = source.kernels(unit)
    assert names and len(names) == source.text(unit).count("__global__")
    launched = "".join(p.read_text() for p in source.FOLDER.glob("*.py"))
    assert [n for n in names if f'"{n}"' not in launched] == []


@pytest.mark.parametrize(
    ("unit", "macro", "ours"),
    [
        ("norm", "THREADS", module.THREADS),
        ("norm", "DEEP", module.DEEP),
        ("norm", "MANY", module.MANY),
        ("norm", "SUM_THREADS", module.SUM_THREADS),
        ("norm", "SUM_COLUMNS", module.SUM_COLUMNS),
        ("optim", "CHUNK", optim.CHUNK),
        ("loss", "WARPS", loss.WARPS),
        ("product", "TILE", product.TILE),
    ],
)
def test_python_knows_the_macros(unit: str, macro: str, ours: int) -> None:
    found = re.search(rf"^#define {macro} +(\d+)", source.text(unit), re.MULTILINE)
    assert found is not None and int(found[1]) == ours


@pytest.mark.parametrize(
    ("m", "c", "vector"),
    [
        (1, 1, 1),
        (5, 3, 1),
        (10**7, 3, 1),
        (131072, 16, 8),
        (128, 2048, 8),
        (9, 5000, 1),
    ],
)
def test_tiles_cover_the_matrix_once(m: int, c: int, vector: int) -> None:
    t = module.tiles(m, c, vector)
    assert t.grid[0] * t.block[0] * vector >= c
    assert (t.grid[0] - 1) * t.block[0] * vector < c
    assert (t.chunks - 1) * t.chunk < m <= t.chunks * t.chunk
    assert t.block[0] * t.block[1] <= module.THREADS and t.block[0] <= 64
    assert t.chunks <= 65535 and (t.grid[0] > 16 or t.chunks <= module.BLOCKS)


def test_a_thread_of_a_pool_takes_one_row_where_blocks_suffice() -> None:
    """It reads a window at a time: several rows would wait for each other."""
    one = module.tiles(8192, 64, 4, module.APPLY_BLOCKS, 1)
    assert one.chunk == one.block[1] == 16 and one.chunks == 512
    grids: dict[str, tuple[int, ...]] = {}

    def compiler(variant: Variant) -> SimpleNamespace:
        def function(name: str) -> Callable[..., None]:
            return lambda grid, block, args: grids.update({name: grid})

        return SimpleNamespace(get_function=function)

    x, at = np.zeros((2, 64, 64, 64), np.float32), window((1, 1), (1, 1))
    with module.compiled_by(compiler):
        launch.max_pool2d(x, at)
        launch.max_pool2d_input_grad(x, x.astype(np.uint8), x.shape, at)
        launch.avg_pool2d(x, at)
        launch.avg_pool2d_input_grad(x, x.shape, at)
    assert len(grids) == 4 and set(grids.values()) == {one.grid}


@pytest.mark.parametrize("vector", [1, 4, 8])
@pytest.mark.parametrize("c", [1, 3, 33, 64, 136, 2048, 16384, 100_000])
@pytest.mark.parametrize("m", [1, 2, 513, 32768, 10**7])
def test_tiles_of_sums(m: int, c: int, vector: int) -> None:
    """What common.cuh and the kernels take for granted."""
    t = module.sum_tiles(m, c, vector)
    (width, chunks), (x, y) = t.grid, t.block
    assert x * vector <= module.SUM_COLUMNS and x * y <= module.SUM_THREADS
    assert x * (16 if vector > 1 else 4) <= module.SUM_BYTES
    assert y % 16 == 0 and t.chunk % (y * module.MANY) == 0
    assert (width - 1) * x * vector < c <= width * x * vector
    assert (chunks - 1) * t.chunk < m <= chunks * t.chunk
    assert chunks == 1 or chunks * width <= module.SUM_BLOCKS + width
    assert chunks == 1 or (width < module.SUM_BLOCKS and m > module.ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_nvcc_compiles(variant: Variant, tmp_path: Path) -> None:
    """To machine code, without a warning; so the registers are few enough to launch."""
    if NVCC is None:
        pytest.skip("there is no nvcc")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command = [NVCC, "-fatbin", "-std=c++14", "-Werror=all-warnings", *targets]
    command += [*variant.options, str(variant.path), "-o", str(tmp_path / "fatbin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def nvrtc_libraries() -> Iterator[str]:
    """Where NVRTC may be: the system's, or that of a wheel NVIDIA publishes."""
    if name := find_library("nvrtc"):
        yield name
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            if ".alt" not in path.name:
                yield str(path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_nvrtc_compiles(variant: Variant, arch: str) -> None:
    """The text CuPy is given, without any header of the host or of CUDA."""
    path = next(nvrtc_libraries(), None)
    if path is None:
        pytest.skip("there is no NVRTC")
    nvrtc, program = ctypes.CDLL(path), ctypes.c_void_p()
    text = source.text(variant.unit).encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"unit.cu", 0, None, None)
    options = [f"-arch=sm_{arch}", "-std=c++14", *variant.options]
    texts = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), texts)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0 and not log.value, log.value.decode()
