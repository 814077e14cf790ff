"""Triton kernels whose PTX is kept beside this file, and the command that makes it.

    python3 -m venv venv && venv/bin/pip install triton==3.9.0
    venv/bin/python kernels.py

compiles them for sm_80, without a GPU, and writes one .ptx file each. Debug sections are dropped for size.
"""
import pathlib
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget


@triton.jit
def softmax(x, y, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * n + at, mask=at < n, other=-float("inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * n + at, e / tl.sum(e, 0), mask=at < n)


@triton.jit
def matmul(a, b, c, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    i = tl.program_id(0) * M + tl.arange(0, M)
    j = tl.program_id(1) * N + tl.arange(0, N)
    t = tl.arange(0, K)
    acc = tl.zeros((M, N), tl.float32)
    for start in range(0, k, K):
        x = tl.load(a + i[:, None] * k + (start + t)[None, :], mask=i[:, None] < m, other=0.0)
        y = tl.load(b + (start + t)[:, None] * n + j[None, :], mask=j[None, :] < n, other=0.0)
        acc = tl.dot(x, y, acc)
    tl.store(c + i[:, None] * n + j[None, :], acc, mask=(i[:, None] < m) & (j[None, :] < n))


@triton.jit
def flash(q, k, v, o, scale, n, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    i = tl.program_id(0) * M + tl.arange(0, M)
    d = tl.arange(0, D)
    qt = tl.load(q + i[:, None] * D + d[None, :])
    top = tl.full((M,), -float("inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, D), tl.float32)
    for start in range(0, n, N):
        j = start + tl.arange(0, N)
        kt = tl.load(k + j[None, :] * D + d[:, None])
        s = tl.dot(qt, kt) * (scale * 1.44269504)
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        alpha = tl.exp2(top - new)
        total = total * alpha + tl.sum(p, 1)
        vt = tl.load(v + j[:, None] * D + d[None, :])
        acc = tl.dot(p.to(tl.float16), vt, acc * alpha[:, None])
        top = new
    tl.store(o + i[:, None] * D + d[None, :], acc / total[:, None])


@triton.jit
def histogram(x, bins, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0)
    tl.atomic_add(bins + v % BINS, 1, mask=at < n)


@triton.jit
def matmul_i8(a, b, c, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    i = tl.program_id(0) * M + tl.arange(0, M)
    j = tl.program_id(1) * N + tl.arange(0, N)
    t = tl.arange(0, K)
    acc = tl.zeros((M, N), tl.int32)
    for start in range(0, k, K):
        x = tl.load(a + i[:, None] * k + (start + t)[None, :])
        y = tl.load(b + j[None, :] * k + (start + t)[:, None])
        acc = tl.dot(x, y, acc)
    tl.store(c + i[:, None] * n + j[None, :], acc)


def write(fn, signature, constants, warps, stages):
    src = triton.compiler.ASTSource(fn=fn, signature=signature, constexprs=constants)
    done = triton.compile(src, target=GPUTarget("cuda", 80, 32), options=dict(num_warps=warps, num_stages=stages))
    ptx = done.asm["ptx"]
    ptx = ptx if isinstance(ptx, str) else ptx.decode()
    # Debug sections, and the path of this file.
    ptx = re.sub(r"\n\s*\.section\s+\.debug_\w+\s*\{.*?\n\s*\}\n", "\n", ptx, flags=re.S)
    ptx = re.sub(r'\.file\s+1\s+"[^"]*"', '.file 1 "kernels.py"', ptx)
    ptx = re.sub(r'"[^"]*/(triton/language/\w+\.py)"', r'"\1"', ptx)
    ptx = re.sub(r", debug", "", ptx)
    name = fn.__name__ if hasattr(fn, "__name__") else fn.fn.__name__
    path = pathlib.Path(__file__).with_name(f"triton_{name}.ptx")
    path.write_text(f"// Made by kernels.py with Triton {triton.__version__}; dynamic shared memory {done.metadata.shared} bytes.\n" + ptx)
    print(path.name, len(ptx), "bytes", "shared", done.metadata.shared, "warps", warps)


if __name__ == "__main__":
    f, h, i, b = "*fp32", "*fp16", "*i32", "*i8"
    write(softmax, dict(x=f, y=f, n="i32", BLOCK="constexpr"), dict(BLOCK=512), 4, 1)
    write(matmul, dict(a=h, b=h, c=f, m="i32", n="i32", k="i32", M="constexpr", N="constexpr", K="constexpr"), dict(M=32, N=32, K=32), 4, 3)
    write(flash, dict(q=h, k=h, v=h, o=f, scale="fp32", n="i32", D="constexpr", M="constexpr", N="constexpr"), dict(D=32, M=32, N=32), 2, 2)
    write(histogram, dict(x=i, bins=i, n="i32", BINS="constexpr", BLOCK="constexpr"), dict(BINS=64, BLOCK=256), 4, 1)
    write(matmul_i8, dict(a=b, b=b, c=i, n="i32", k="i32", M="constexpr", N="constexpr", K="constexpr"), dict(M=32, N=32, K=64), 4, 2)
