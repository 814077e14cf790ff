"""Triton on the PTX machine: a driver for Triton over the `libcuda.so.1` of `make softcuda`, without torch and without a GPU.

Importing it makes it Triton's driver. Bounds are checked; other checks are off, since what the kernels compute is held to numpy.
"""

import ctypes
import json
import os
import tempfile
import warnings

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
_counters = tempfile.NamedTemporaryFile(prefix="softcuda-counters-")
# The library reads these when it starts.
os.environ |= dict(SOFTCUDA_DEVICES="1", SOFTCUDA_ARCH="sm_90", SOFTCUDA_CHECKS="none", SOFTCUDA_COUNTERS=_counters.name)
os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(ROOT, ".tools/peers/triton-cache"))

warnings.filterwarnings("ignore", "TRITON_DEFAULT_FP_FUSION")
import numpy as np
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

_cuda = ctypes.CDLL(os.path.join(ROOT, "target/softcuda/libcuda.so.1"))
_DYNAMIC_SHARED_BYTES = 8
_SCALARS = dict(i32=ctypes.c_int32, i64=ctypes.c_int64, u32=ctypes.c_uint32, u64=ctypes.c_uint64, fp32=ctypes.c_float)


def _call(name, *args):
    code = getattr(_cuda, name)(*args)
    if code:
        text = ctypes.c_char_p()
        _cuda.cuGetErrorName(code, ctypes.byref(text))
        raise RuntimeError(f"{name}: {text.value.decode()}")


class Array:
    """A numpy array's copy in the machine's memory, with what Triton and vLLM ask a tensor for; a view where strides or an offset are given."""

    def __init__(self, data, *, dtype=None, shape=None, strides=None, offset=0):
        self.memory = data.memory if isinstance(data, Array) else _Memory(np.ascontiguousarray(data))
        self.dtype = np.dtype(dtype or data.dtype)
        self.shape = tuple(shape or data.shape)
        dense = [int(np.prod(self.shape[i + 1 :])) for i in range(len(self.shape))]
        self.strides = tuple(strides or dense)
        self.offset = offset

    def data_ptr(self):
        return self.memory.address + self.offset

    def stride(self, axis=None):
        return self.strides if axis is None else self.strides[axis]

    def element_size(self):
        return self.dtype.itemsize

    def __len__(self):
        return self.shape[0]

    def numpy(self):
        return self.memory.read().view(self.dtype).reshape(self.shape)


class _Memory:
    def __init__(self, data):
        self.bytes, address = data.nbytes, ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(self.bytes))
        self.address = address.value
        _call("cuMemcpyHtoD_v2", address, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(self.bytes))

    def read(self):
        data = np.empty(self.bytes, np.uint8)
        _call("cuMemcpyDtoH_v2", data.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(self.address), ctypes.c_size_t(self.bytes))
        return data

    def __del__(self):
        _cuda.cuMemFree_v2(ctypes.c_uint64(self.address))


class _Launcher:
    def __init__(self, source, metadata):
        self.types = list(source.signature.values())
        self.threads, self.shared = 32 * metadata.num_warps, metadata.shared

    def __call__(self, x, y, z, stream, function, packed, launch, enter, leave, *args):
        given = [(kind, arg) for kind, arg in zip(self.types, args, strict=True) if kind != "constexpr"]
        values = [ctypes.c_uint64(a.data_ptr()) if kind[0] == "*" else _SCALARS[kind](a) for kind, a in given]
        values += [ctypes.c_uint64(0)] * 2  # Triton's scratch memory, which these kernels do not ask for.
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        shape = [ctypes.c_uint(n) for n in (x, y, z, self.threads, 1, 1, self.shared)]
        _call("cuLaunchKernel", ctypes.c_void_p(function), *shape, ctypes.c_void_p(), pointers, ctypes.c_void_p())
        _call("cuCtxSynchronize")


class _Utils:
    @staticmethod
    def get_device_properties(device):
        return dict(max_shared_mem=227 * 1024)

    @staticmethod
    def load_binary(name, text, shared, device):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(text))
        _call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        _call("cuFuncSetAttribute", function, _DYNAMIC_SHARED_BYTES, shared)
        return module.value, function.value, 0, 0, 1024

    @staticmethod
    def unload_module(module):
        _cuda.cuModuleUnload(ctypes.c_void_p(module))


class _Driver:
    launcher_cls, utils = _Launcher, _Utils
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))


def _keep_ptx(*of):
    """Triton asks for a key and a hash of what this changes, and then for the change: PTX is loaded as it is, without ptxas."""
    if not of:
        return "ptx", "ptx"
    of[1]["cubin"] = lambda text, metadata: text.encode()


def warp_instructions():
    """Warp instructions of the launches since it was asked last."""
    with open(_counters.name, "r+") as file:
        count = sum(json.loads(line)["counters"]["warp_instructions"] for line in file)
        file.truncate(0)  # The library appends.
    return count


_context = ctypes.c_void_p()
_call("cuInit", 0)
_call("cuDevicePrimaryCtxRetain", ctypes.byref(_context), 0)
_call("cuCtxSetCurrent", _context)
knobs.runtime.add_stages_inspection_hook = _keep_ptx
driver.set_active(_Driver())
