// One decode step of ggml's flash attention on one thread: 32 query heads, 8 KV heads, head dim 128, keys q8_0, values q4_0.
// Prints the smallest and the median milliseconds of the runs.
//
//   ggml_decode TOKENS RUNS
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

static std::vector<float> noise(size_t n) {
    static unsigned long long state = 1;
    std::vector<float> out(n);
    for (float & x : out) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        x = float(state >> 40) / float(1 << 23) - 1.0f;
    }
    return out;
}

static void fill(ggml_tensor * t) {
    const std::vector<float> x = noise(ggml_nelements(t));
    if (t->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(t, x.data(), 0, ggml_nbytes(t));
        return;
    }
    std::vector<char> packed(ggml_nbytes(t));
    if (t->type == GGML_TYPE_F16) {
        ggml_fp32_to_fp16_row(x.data(), reinterpret_cast<ggml_fp16_t *>(packed.data()), x.size());
    } else {
        ggml_quantize_chunk(t->type, x.data(), packed.data(), 0, ggml_nelements(t) / t->ne[0], t->ne[0], nullptr);
    }
    ggml_backend_tensor_set(t, packed.data(), 0, packed.size());
}

int main(int argc, char ** argv) {
    const long tokens = argc > 1 ? std::atol(argv[1]) : 4096;
    const int runs = argc > 2 ? std::atoi(argv[2]) : 20;
    const int dim = 128, heads = 32, kv_heads = 8;
    ggml_context * ctx = ggml_init({ggml_tensor_overhead() * 16 + ggml_graph_overhead(), nullptr, true});
    ggml_tensor * q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, dim, 1, heads, 1);
    ggml_tensor * k = ggml_new_tensor_4d(ctx, GGML_TYPE_Q8_0, dim, tokens, kv_heads, 1);
    ggml_tensor * v = ggml_new_tensor_4d(ctx, GGML_TYPE_Q4_0, dim, tokens, kv_heads, 1);
    ggml_tensor * out = ggml_flash_attn_ext(ctx, q, k, v, nullptr, 1.0f / std::sqrt(float(dim)), 0.0f, 0.0f);
    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(cpu, 1);
    ggml_backend_buffer_t memory = ggml_backend_alloc_ctx_tensors(ctx, cpu);
    for (ggml_tensor * t : {q, k, v}) fill(t);

    std::vector<double> ms;
    for (int i = 0; i < runs; i++) {
        const auto start = std::chrono::steady_clock::now();
        if (ggml_backend_graph_compute(cpu, graph) != GGML_STATUS_SUCCESS) {
            std::fprintf(stderr, "ggml refused the graph\n");
            return 1;
        }
        ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(ms.begin(), ms.end());
    std::printf("{\"tokens\": %ld, \"best_ms\": %.3f, \"median_ms\": %.3f}\n", tokens, ms.front(), ms[ms.size() / 2]);
    ggml_backend_buffer_free(memory);
    ggml_backend_free(cpu);
    ggml_free(ctx);
}
