//! PTX of other producers: Triton and NVRTC. The texts were made by the scripts beside them.

#![allow(unreachable_pub)] // A test crate.

use leankv_ptx::{Arg, Ast, Config, Divergence, LaunchConfig, Machine, Module};

struct Device {
    machine: Machine,
}

impl Device {
    fn new(config: &Config) -> Device {
        Device { machine: Machine::new(config.clone()) }
    }

    fn put(&mut self, data: &[u8]) -> u64 {
        let at = self.machine.alloc(data.len().max(16) as u64, 256).unwrap();
        self.machine.write(at, data).unwrap();
        at
    }

    fn floats(&mut self, v: &[f32]) -> u64 {
        self.put(&v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    fn halves(&mut self, v: &[f32]) -> u64 {
        self.put(&v.iter().flat_map(|v| half::f16::from_f32(*v).to_bits().to_le_bytes()).collect::<Vec<_>>())
    }

    fn words(&mut self, v: &[u32]) -> u64 {
        self.put(&v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    fn get(&self, at: u64, n: usize) -> Vec<u32> {
        let mut out = vec![0u8; 4 * n];
        self.machine.read(at, &mut out).unwrap();
        out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    fn run(
        &mut self,
        module: &Module,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        args: &[Arg],
    ) {
        let shape = LaunchConfig { grid, block: [threads, 1, 1], dynamic_shared_bytes: shared };
        let report =
            self.machine.launch(module, kernel, shape, args).unwrap_or_else(|e| panic!("{kernel}: {e}"));
        assert!(report.is_clean(), "{kernel}: {}", report.findings[0]);
    }
}

fn load(text: &str) -> Module {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let again = Ast::parse(&module.ast().print()).unwrap_or_else(|e| panic!("{e}"));
    assert!(again.same(module.ast()), "printing changed the tree");
    module
}

fn configs() -> [Config; 3] {
    [
        Config::default(),
        Config { seed: 5, mma_seed: 3, approx_seed: 9, threads: 2, ..Config::default() },
        Config { seed: 7, divergence: Divergence::Independent, ..Config::default() },
    ]
}

fn random(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Rounds to f16, as the device's inputs are.
fn rounded(v: Vec<f32>) -> Vec<f32> {
    v.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect()
}

fn close(got: &[u32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let g = f64::from(f32::from_bits(*g));
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what} element {i}: {g}, want {w}");
    }
}

fn softmax_rows(x: &[f32], n: usize) -> Vec<f64> {
    x.chunks(n)
        .flat_map(|row| {
            let top = row.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = row.iter().map(|v| f64::from(v - top).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |v| v / sum).collect::<Vec<_>>()
        })
        .collect()
}

/// Triton's kernels take two scratch pointers after their own arguments.
fn scratch() -> [Arg; 2] {
    [Arg::U64(0), Arg::U64(0)]
}

#[test]
fn triton_softmax() {
    let module = load(include_str!("foreign/triton_softmax.ptx"));
    for config in configs() {
        let (rows, n) = (5, 500);
        let mut d = Device::new(&config);
        let x: Vec<f32> = random(rows * n, 1).iter().map(|v| v * 8.0).collect();
        let (px, py) = (d.floats(&x), d.floats(&vec![0.0; rows * n]));
        let args = [&[Arg::U64(px), Arg::U64(py), Arg::U32(n as u32)][..], &scratch()].concat();
        d.run(&module, "softmax", [rows as u32, 1, 1], 128, 16, &args);
        close(&d.get(py, rows * n), &softmax_rows(&x, n), 1e-5, "softmax");
    }
}

#[test]
fn triton_matmul_on_tensor_cores() {
    let module = load(include_str!("foreign/triton_matmul.ptx"));
    for config in configs() {
        let (m, n, k) = (50, 40, 96);
        let mut d = Device::new(&config);
        let (a, b) = (rounded(random(m * k, 2)), rounded(random(k * n, 3)));
        let (pa, pb, pc) = (d.halves(&a), d.halves(&b), d.floats(&vec![0.0; m * n]));
        let size = |v: usize| Arg::U32(v as u32);
        let args =
            [&[Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), size(m), size(n), size(k)][..], &scratch()].concat();
        d.run(&module, "matmul", [2, 2, 1], 128, 4096, &args);
        let want: Vec<f64> = (0..m * n)
            .map(|i| (0..k).map(|t| f64::from(a[i / n * k + t]) * f64::from(b[t * n + i % n])).sum())
            .collect();
        close(&d.get(pc, m * n), &want, 1e-4, "matmul");
    }
}

#[test]
fn triton_integer_matmul_on_tensor_cores() {
    let module = load(include_str!("foreign/triton_matmul_i8.ptx"));
    for config in configs() {
        let (m, n, k) = (64, 32, 192);
        let mut d = Device::new(&config);
        let bytes =
            |n: usize, s: u32| -> Vec<i8> { random(n, s).iter().map(|v| (v * 127.0) as i8).collect() };
        let (a, b) = (bytes(m * k, 4), bytes(n * k, 5));
        let raw = |v: &[i8]| v.iter().map(|v| *v as u8).collect::<Vec<_>>();
        let (pa, pb, pc) = (d.put(&raw(&a)), d.put(&raw(&b)), d.words(&vec![0; m * n]));
        let args = [
            &[Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::U32(n as u32), Arg::U32(k as u32)][..],
            &scratch(),
        ]
        .concat();
        d.run(&module, "matmul_i8", [2, 1, 1], 128, 4096, &args);
        let got = d.get(pc, m * n);
        for (i, g) in got.iter().enumerate() {
            let want: i32 = (0..k).map(|t| i32::from(a[i / n * k + t]) * i32::from(b[i % n * k + t])).sum();
            assert_eq!(*g as i32, want, "element {i}");
        }
    }
}

#[test]
fn triton_flash_attention() {
    let module = load(include_str!("foreign/triton_flash.ptx"));
    for config in configs() {
        let (n, dim) = (128usize, 32usize);
        let mut d = Device::new(&config);
        let (q, k, v) =
            (rounded(random(n * dim, 6)), rounded(random(n * dim, 7)), rounded(random(n * dim, 8)));
        let (pq, pk, pv, po) = (d.halves(&q), d.halves(&k), d.halves(&v), d.floats(&vec![0.0; n * dim]));
        let scale = 1.0 / (dim as f32).sqrt();
        let args =
            [
                &[
                    Arg::U64(pq),
                    Arg::U64(pk),
                    Arg::U64(pv),
                    Arg::U64(po),
                    Arg::F32(scale),
                    Arg::U32(n as u32),
                ][..],
                &scratch(),
            ]
            .concat();
        d.run(&module, "flash", [(n / 32) as u32, 1, 1], 64, 4096, &args);
        let mut want = Vec::new();
        for i in 0..n {
            let s: Vec<f32> = (0..n)
                .map(|j| (0..dim).map(|t| q[i * dim + t] * k[j * dim + t]).sum::<f32>() * scale)
                .collect();
            let p = softmax_rows(&s, n);
            want.extend((0..dim).map(|t| (0..n).map(|j| p[j] * f64::from(v[j * dim + t])).sum::<f64>()));
        }
        // The probabilities pass through f16.
        close(&d.get(po, n * dim), &want, 1e-3, "attention");
    }
}

#[test]
fn triton_atomic_histogram() {
    let module = load(include_str!("foreign/triton_histogram.ptx"));
    for config in configs() {
        let n = 1000;
        let mut d = Device::new(&config);
        let x: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 20).collect();
        let (px, pb) = (d.words(&x), d.words(&[0; 64]));
        let args = [&[Arg::U64(px), Arg::U64(pb), Arg::U32(n as u32)][..], &scratch()].concat();
        d.run(&module, "histogram", [4, 1, 1], 128, 0, &args);
        let want: Vec<u32> = (0..64).map(|b| x.iter().filter(|v| **v % 64 == b).count() as u32).collect();
        assert_eq!(d.get(pb, 64), want);
    }
}

#[test]
fn nvrtc_softmax_and_histogram() {
    let module = load(include_str!("foreign/nvrtc_kernels.ptx"));
    for config in configs() {
        let (rows, n) = (3, 300);
        let mut d = Device::new(&config);
        let x: Vec<f32> = random(rows * n, 9).iter().map(|v| v * 5.0).collect();
        let (px, py) = (d.floats(&x), d.floats(&vec![0.0; rows * n]));
        d.run(
            &module,
            "softmax",
            [rows as u32, 1, 1],
            128,
            0,
            &[Arg::U64(px), Arg::U64(py), Arg::U32(n as u32)],
        );
        close(&d.get(py, rows * n), &softmax_rows(&x, n), 1e-5, "softmax");
        let x: Vec<u32> = (0..1500u32).map(|i| i * i).collect();
        let (px, pb) = (d.words(&x), d.words(&[0; 64]));
        d.run(&module, "histogram", [5, 1, 1], 96, 256, &[Arg::U64(px), Arg::U64(pb), Arg::U32(1500)]);
        let want: Vec<u32> = (0..64).map(|b| x.iter().filter(|v| **v % 64 == b).count() as u32).collect();
        assert_eq!(d.get(pb, 64), want);
    }
}

#[test]
fn nvrtc_matmul_with_inline_assembly() {
    let module = load(include_str!("foreign/nvrtc_kernels.ptx"));
    for config in configs() {
        let (m, n, k) = (32, 16, 64);
        let mut d = Device::new(&config);
        let (a, b) = (rounded(random(m * k, 10)), rounded(random(n * k, 11)));
        let (pa, pb, pc) = (d.halves(&a), d.halves(&b), d.floats(&vec![0.0; m * n]));
        let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::U32(n as u32), Arg::U32(k as u32)];
        d.run(&module, "matmul", [2, 2, 1], 32, 0, &args);
        let want: Vec<f64> = (0..m * n)
            .map(|i| (0..k).map(|t| f64::from(a[i / n * k + t]) * f64::from(b[i % n * k + t])).sum())
            .collect();
        close(&d.get(pc, m * n), &want, 1e-4, "matmul");
    }
}

#[test]
fn nvrtc_matrix_fragments() {
    let module = load(include_str!("foreign/nvrtc_kernels.ptx"));
    for config in configs() {
        let mut d = Device::new(&config);
        let (a, b) = (rounded(random(256, 12)), rounded(random(256, 13)));
        let bytes = |s: u32| -> Vec<u8> { random(256, s).iter().map(|v| (v * 127.0) as i8 as u8).collect() };
        let (ai, bi) = (bytes(14), bytes(15));
        let (pa, pb, pc) = (d.halves(&a), d.halves(&b), d.floats(&[0.0; 256]));
        let (qa, qb, qc) = (d.put(&ai), d.put(&bi), d.words(&[0; 256]));
        let args = [pa, pb, pc, qa, qb, qc].map(Arg::U64);
        d.run(&module, "fragments", [1, 1, 1], 32, 0, &args);
        let want: Vec<f64> = (0..256)
            .map(|e| {
                0.5 + (0..16)
                    .map(|k| f64::from(a[e / 16 * 16 + k]) * f64::from(b[e % 16 * 16 + k]))
                    .sum::<f64>()
            })
            .collect();
        close(&d.get(pc, 256), &want, 1e-5, "fragments");
        for (e, got) in d.get(qc, 256).iter().enumerate() {
            // Stored by columns.
            let (i, j) = (e % 16, e / 16);
            let at = |v: &[u8], k: usize| i32::from(v[k] as i8);
            let want: i32 = 3 + (0..16).map(|k| at(&ai, 16 * i + k) * at(&bi, 16 * k + j)).sum::<i32>();
            assert_eq!(*got as i32, want, "element {i},{j}");
        }
    }
}

#[test]
fn nvrtc_calls_switches_and_local_memory() {
    let module = load(include_str!("foreign/nvrtc_kernels.ptx"));
    let collatz = |v: i32| {
        let (mut b, mut n) = (i64::from(v), 0);
        while b != 1 {
            b = if b % 2 != 0 { 3 * b + 1 } else { b / 2 };
            n += 1;
        }
        n
    };
    for config in configs() {
        let n = 200;
        let mut d = Device::new(&config);
        let x: Vec<u32> = (0..n as u32).map(|i| i * 37 % 1009 + 1).collect();
        let (px, py) = (d.words(&x), d.words(&vec![0; 2 * n]));
        d.run(&module, "mixed", [2, 1, 1], 128, 0, &[Arg::U64(px), Arg::U64(py), Arg::U32(n as u32)]);
        let got = d.get(py, 2 * n);
        for i in 0..n {
            let v = x[i] as i32;
            let mut table = [0i32; 8];
            for k in 0..8 {
                table[(k * 5 + i) % 8] = k as i32 * v;
            }
            let want = match v & 7 {
                0 => f64::from(collatz(v + 1)),
                1 => f64::from(table[i % 8]) / 3.0,
                2 => f64::from(v).sqrt(),
                3 => f64::from(v.count_ones() + v.leading_zeros() * 100),
                4 => (i64::from(v) * 1_000_003 % 977) as f64,
                5 => f64::from(v.reverse_bits() as u32),
                6 => (f64::from(v) * 0.37).floor(),
                _ => f64::from(collatz(v) + table[3]),
            };
            let g = f64::from_bits(u64::from(got[2 * i]) | u64::from(got[2 * i + 1]) << 32);
            assert_eq!(g, want, "element {i}, case {}", v & 7);
        }
    }
}
