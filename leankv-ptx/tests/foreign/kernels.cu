// CUDA C++ kernels whose PTX (nvrtc_kernels.ptx) is made by make_nvrtc.py.
#include <cuda_fp16.h>
#include <mma.h>

extern "C" __global__ void softmax(const float *x, float *y, int n) {
    __shared__ float part[32];
    const float *row = x + blockIdx.x * n;
    float top = -__int_as_float(0x7f800000);
    for (int i = threadIdx.x; i < n; i += blockDim.x) top = fmaxf(top, row[i]);
    for (int d = 16; d > 0; d >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = top;
    __syncthreads();
    top = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : -__int_as_float(0x7f800000);
    for (int d = 16; d > 0; d >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    if (threadIdx.x == 0) part[31] = top;
    __syncthreads();
    top = part[31];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += expf(row[i] - top);
    for (int d = 16; d > 0; d >>= 1) sum += __shfl_down_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < blockDim.x / 32; w++) sum += part[w];
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = expf(row[i] - top) / sum;
}

extern "C" __global__ void histogram(const unsigned *x, unsigned *bins, int n) {
    extern __shared__ unsigned mine[];
    for (int i = threadIdx.x; i < 64; i += blockDim.x) mine[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&mine[x[i] % 64], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 64; i += blockDim.x)
        if (mine[i]) atomicAdd(&bins[i], mine[i]);
}

// C[16 * blockIdx.x .., 8 * blockIdx.y ..] = A B^T for A of k columns and B of k columns, one warp.
extern "C" __global__ void matmul(const __half *a, const __half *b, float *c, int n, int k) {
    __shared__ __align__(16) __half sa[16 * 16], sb[8 * 16];
    float d[4] = {0, 0, 0, 0};
    int lane = threadIdx.x;
    for (int s = 0; s < k; s += 16) {
        const __half *src = a + (16 * blockIdx.x + lane / 2) * k + s + lane % 2 * 8;
        unsigned dst = __cvta_generic_to_shared(sa + lane * 8);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
        if (lane < 16) {
            const __half *bs = b + (8 * blockIdx.y + lane / 2) * k + s + lane % 2 * 8;
            unsigned bd = __cvta_generic_to_shared(sb + lane * 8);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(bd), "l"(bs) : "memory");
        }
        asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
        __syncwarp();
        unsigned ra[4], rb[2];
        unsigned pa = __cvta_generic_to_shared(sa + lane % 16 * 16 + lane / 16 * 8);
        unsigned pb = __cvta_generic_to_shared(sb + lane % 8 * 16 + lane / 8 % 2 * 8);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(pa) : "memory");
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(pb) : "memory");
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
        __syncwarp();
    }
    int row = 16 * blockIdx.x + lane / 4, col = 8 * blockIdx.y + lane % 4 * 2;
    c[row * n + col] = d[0];
    c[row * n + col + 1] = d[1];
    c[(row + 8) * n + col] = d[2];
    c[(row + 8) * n + col + 1] = d[3];
}

// C = A B by the C++ matrix fragments: f16 with a single-precision sum, and bytes.
extern "C" __global__ void fragments(const __half *a, const __half *b, float *c, const signed char *ai, const signed char *bi, int *ci) {
    using namespace nvcuda::wmma;
    __shared__ __half sb[256];
    for (int i = threadIdx.x; i < 256; i += 32) sb[i] = b[i];
    __syncwarp();
    fragment<matrix_a, 16, 16, 16, __half, row_major> fa;
    fragment<matrix_b, 16, 16, 16, __half, col_major> fb;
    fragment<accumulator, 16, 16, 16, float> fc;
    load_matrix_sync(fa, a, 16);
    load_matrix_sync(fb, sb, 16);
    fill_fragment(fc, 0.5f);
    mma_sync(fc, fa, fb, fc);
    store_matrix_sync(c, fc, 16, mem_row_major);
    fragment<matrix_a, 16, 16, 16, signed char, row_major> ga;
    fragment<matrix_b, 16, 16, 16, signed char, row_major> gb;
    fragment<accumulator, 16, 16, 16, int> gc;
    load_matrix_sync(ga, ai, 16);
    load_matrix_sync(gb, bi, 16);
    fill_fragment(gc, 3);
    mma_sync(gc, ga, gb, gc);
    store_matrix_sync(ci, gc, 16, mem_col_major);
}

struct Pair { int a; long long b; };

__device__ __noinline__ Pair collatz(int v) {
    Pair p = {0, v};
    while (p.b != 1) {
        p.b = p.b % 2 ? 3 * p.b + 1 : p.b / 2;
        p.a++;
    }
    return p;
}

// Calls, local arrays, switches, 64-bit and double arithmetic.
extern "C" __global__ void mixed(const int *x, double *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int table[8];
    for (int k = 0; k < 8; k++) table[(k * 5 + i) % 8] = k * x[i];
    double v;
    switch (x[i] & 7) {
    case 0: v = collatz(x[i] + 1).a; break;
    case 1: v = table[i % 8] / 3.0; break;
    case 2: v = sqrt((double)x[i]); break;
    case 3: v = __popc(x[i]) + __clz(x[i]) * 100; break;
    case 4: v = (double)((long long)x[i] * 1000003LL % 977); break;
    case 5: v = __brev(x[i]); break;
    case 6: v = floor(x[i] * 0.37); break;
    default: v = collatz(x[i]).a + table[3];
    }
    y[i] = v;
}
