"""Compiles kernels.cu to nvrtc_kernels.ptx with NVRTC; no GPU needed.

    python3 -m venv venv
    venv/bin/pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl
    venv/bin/python make_nvrtc.py
"""
import ctypes
import glob
import pathlib
import re
import site

here = pathlib.Path(__file__).parent
packages = site.getsitepackages()
lib = next(f for p in packages for f in glob.glob(p + "/nvidia/**/libnvrtc.so.*", recursive=True))
include = {str(pathlib.Path(f).parent) for p in packages for f in glob.glob(p + "/nvidia/**/cuda_fp16.h", recursive=True)}
include |= {str(pathlib.Path(f).parents[1]) for p in packages for f in glob.glob(p + "/nvidia/**/nv/target", recursive=True)}
n = ctypes.CDLL(lib)
prog, size = ctypes.c_void_p(), ctypes.c_size_t()
n.nvrtcCreateProgram(ctypes.byref(prog), (here / "kernels.cu").read_bytes(), b"kernels.cu", 0, None, None)
options = [b"--gpu-architecture=compute_80", b"-lineinfo", *(b"-I" + i.encode() for i in sorted(include))]
rc = n.nvrtcCompileProgram(prog, len(options), (ctypes.c_char_p * len(options))(*options))
n.nvrtcGetProgramLogSize(prog, ctypes.byref(size))
log = ctypes.create_string_buffer(size.value)
n.nvrtcGetProgramLog(prog, log)
if rc:
    raise SystemExit(log.value.decode())
n.nvrtcGetPTXSize(prog, ctypes.byref(size))
text = ctypes.create_string_buffer(size.value)
n.nvrtcGetPTX(prog, text)
major, minor = ctypes.c_int(), ctypes.c_int()
n.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
# Names of files without this machine's folders.
ptx = re.sub(rb'(\.file\s+\d+\s+")[^"]*/', rb"\1", text.value)
(here / "nvrtc_kernels.ptx").write_bytes(f"// Made by make_nvrtc.py with NVRTC {major.value}.{minor.value}.\n".encode() + ptx)
