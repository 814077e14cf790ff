//! The public face: modules, device memory and launches.

use crate::config::Config;
use crate::counters::{Counters, InstrLine, RangeCounters};
use crate::decode::{self, Program};
use crate::error::{Error, ParseError};
use crate::feature;
use crate::finding::Finding;
use crate::syntax::ast::Ast;
use crate::vm::context::Launch;
use crate::vm::global::GlobalMemory;
use crate::vm::grid;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static NEXT_MODULE: AtomicU64 = AtomicU64::new(1);

/// A parsed and decoded PTX module. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Module {
    id: u64,
    ast: Arc<Ast>,
    program: Arc<Program>,
}

impl Module {
    /// Parses PTX text and decodes every function.
    ///
    /// # Errors
    /// Syntax errors, unknown opcodes and modifiers, wrong operands, unresolved names, and what the module's `.target` and `.version`
    /// do not have ([`feature`]), with line and column.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        Module::from_ast(Ast::parse(text)?)
    }

    /// Decodes every function of a syntax tree.
    ///
    /// # Errors
    /// As for [`Module::parse`]; the places are those of the text that the tree was parsed from.
    pub fn from_ast(ast: Ast) -> Result<Module, ParseError> {
        let program = decode::program(&ast)?;
        feature::check(&ast)?;
        let id = NEXT_MODULE.fetch_add(1, Relaxed);
        Ok(Module { id, ast: Arc::new(ast), program: Arc::new(program) })
    }

    /// The syntax tree.
    pub fn ast(&self) -> &Ast {
        &self.ast
    }

    /// Names of the kernels, in alphabetical order.
    pub fn kernels(&self) -> Vec<&str> {
        let p = &self.program;
        p.by_name.iter().filter(|(_, i)| p.funcs[**i as usize].is_entry).map(|(n, _)| n.as_str()).collect()
    }

    /// Parameters of a kernel: name, offset and size in bytes of each.
    pub fn kernel_params(&self, kernel: &str) -> Option<Vec<(String, u32, u32)>> {
        let i = *self.program.by_name.get(kernel)? as usize;
        let code = &self.program.funcs[i];
        code.is_entry.then(|| code.params.iter().map(|p| (p.name.clone(), p.offset, p.bytes)).collect())
    }

    /// Static shared memory of a kernel in bytes.
    pub fn static_shared_bytes(&self, kernel: &str) -> Option<u64> {
        let i = *self.program.by_name.get(kernel)?;
        self.program.funcs[i as usize].is_entry.then(|| shared_layout(&self.program, i, 0).static_bytes)
    }

    /// `.maxntid` or `.reqntid` as a number of threads, if given.
    pub fn max_threads(&self, kernel: &str) -> Option<u64> {
        let code = &self.program.funcs[*self.program.by_name.get(kernel)? as usize];
        match code.required_threads {
            Some([x, y, z]) => Some(u64::from(x) * u64::from(y) * u64::from(z)),
            None => code.max_threads,
        }
    }

    /// `.reqntid` of a kernel: the only block shape that it can be launched with.
    pub fn required_threads(&self, kernel: &str) -> Option<[u32; 3]> {
        self.program.funcs[*self.program.by_name.get(kernel)? as usize].required_threads
    }

    /// The variables that the module defines in global and constant memory: name, size in bytes, whether constant.
    pub fn variables(&self) -> Vec<(&str, u64, bool)> {
        let defined = self.program.vars.iter().filter(|v| !v.external);
        defined.map(|v| (v.name.as_str(), v.bytes, v.constant)).collect()
    }

    /// Local memory of one thread of a kernel in bytes, callees not included.
    pub fn local_bytes(&self, kernel: &str) -> Option<u64> {
        let code = &self.program.funcs[*self.program.by_name.get(kernel)? as usize];
        Some(u64::from(code.local_bytes.saturating_sub(16)))
    }
}

/// A kernel argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// 8-bit integer.
    U8(u8),
    /// 16-bit integer, or f16 or bf16 bits.
    U16(u16),
    /// 32-bit unsigned integer.
    U32(u32),
    /// 32-bit signed integer.
    I32(i32),
    /// 64-bit unsigned integer or device pointer.
    U64(u64),
    /// 64-bit signed integer.
    I64(i64),
    /// Single-precision number.
    F32(f32),
    /// Double-precision number.
    F64(f64),
    /// Any value by its bytes, for example a structure.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U8(v) => vec![*v],
            Arg::U16(v) => v.to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::I32(v) => v.to_le_bytes().to_vec(),
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::I64(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
            Arg::F64(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(v) => v.clone(),
        }
    }
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes behind an unsized `.extern .shared` array.
    pub dynamic_shared_bytes: u32,
}

/// What a launch reports besides its memory effects.
#[derive(Clone, Debug, Default)]
pub struct LaunchReport {
    /// Findings of the checks, in order of kind and place.
    pub findings: Vec<Finding>,
    /// Findings beyond [`Config::max_findings`]. An error is kept before what is benign, so none of them is an error unless
    /// [`findings`](LaunchReport::findings) has errors.
    pub findings_dropped: u64,
    /// Modelled counters.
    pub counters: Counters,
}

impl LaunchReport {
    /// Findings that make results undefined.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.severity == crate::finding::Severity::Error)
    }

    /// Whether no check found an error.
    pub fn is_clean(&self) -> bool {
        self.errors().next().is_none()
    }
}

/// A device: memory, loaded modules and the way kernels are run.
pub struct Machine {
    config: Config,
    memory: GlobalMemory,
    /// Addresses of each loaded module's variables.
    loaded: BTreeMap<u64, Vec<u64>>,
    tracked: Vec<(String, u64, u64)>,
    launches: u32,
}

/// Offsets of shared variables for one kernel.
struct SharedLayout {
    offsets: Vec<u32>,
    ranges: Vec<(u32, u32, String)>,
    static_bytes: u64,
    total: u64,
}

/// Gap between shared variables, so that an overrun of one is not an access of the next. A multiple of the bank
/// cycle, so that bank numbers do not change.
const SHARED_GAP: u64 = 128;

fn reachable(program: &Program, entry: u32) -> Vec<u32> {
    let mut seen = vec![false; program.funcs.len()];
    let mut stack = vec![entry];
    while let Some(i) = stack.pop() {
        if std::mem::replace(&mut seen[i as usize], true) {
            continue;
        }
        let code = &program.funcs[i as usize];
        stack.extend(&code.callees);
        if code.indirect {
            stack.extend((0..program.funcs.len() as u32).filter(|k| !program.funcs[*k as usize].is_entry));
        }
    }
    (0..program.funcs.len() as u32).filter(|i| seen[*i as usize]).collect()
}

fn shared_layout(program: &Program, entry: u32, dynamic: u32) -> SharedLayout {
    let mut used = vec![false; program.shared.len()];
    for f in reachable(program, entry) {
        for (_, _, initial, _) in &program.funcs[f as usize].initials {
            if let decode::op::Initial::Shared(i) = initial {
                used[*i as usize] = true;
            }
        }
    }
    let mut offsets = vec![0u32; program.shared.len()];
    let mut ranges = Vec::new();
    let (mut at, mut static_bytes) = (0u64, 0u64);
    for (i, v) in program.shared.iter().enumerate().filter(|(i, v)| used[*i] && !v.dynamic) {
        if at > 0 {
            at += SHARED_GAP;
        }
        at = at.next_multiple_of(u64::from(v.align.max(1)));
        offsets[i] = at.min(u64::from(u32::MAX)) as u32;
        static_bytes = static_bytes.next_multiple_of(u64::from(v.align.max(1))) + v.bytes;
        ranges.push((
            offsets[i],
            offsets[i].saturating_add(v.bytes.min(u64::from(u32::MAX)) as u32),
            v.name.clone(),
        ));
        at += v.bytes;
    }
    // All unsized arrays start at the same place, behind the static ones.
    let align = program
        .shared
        .iter()
        .enumerate()
        .filter(|(i, v)| used[*i] && v.dynamic)
        .map(|(_, v)| u64::from(v.align.max(1)))
        .max();
    if let Some(align) = align {
        if at > 0 {
            at += SHARED_GAP;
        }
        at = at.next_multiple_of(align.max(16));
        for (i, v) in program.shared.iter().enumerate().filter(|(i, v)| used[*i] && v.dynamic) {
            offsets[i] = at.min(u64::from(u32::MAX)) as u32;
            if ranges.last().is_none_or(|r| r.0 != offsets[i]) {
                ranges.push((offsets[i], offsets[i].saturating_add(dynamic), v.name.clone()));
            }
        }
        at += u64::from(dynamic);
    }
    SharedLayout { offsets, ranges, static_bytes, total: at }
}

impl Machine {
    /// A machine with empty memory.
    pub fn new(config: Config) -> Machine {
        let memory = GlobalMemory::new(config.memory_bytes, config.checks.uninit_global);
        Machine { config, memory, loaded: BTreeMap::new(), tracked: Vec::new(), launches: 0 }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes schedule, seeds and checks for later launches. Tracking of uninitialised global memory stays as
    /// it was when the machine was made.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Allocates `bytes` of device memory aligned to at least `align` (and 256) bytes.
    ///
    /// # Errors
    /// Zero size, a bad alignment, or no memory left.
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, Error> {
        self.memory.alloc(bytes, align, false).map_err(|message| Error::Alloc { bytes, align, message })
    }

    /// Frees an allocation. Its addresses are never used again.
    ///
    /// # Errors
    /// `address` is not the start of a live allocation.
    pub fn free(&mut self, address: u64) -> Result<(), Error> {
        self.memory.free(address).map_err(|message| Error::HostAccess { address, bytes: 0, message })
    }

    /// Copies from the host.
    ///
    /// # Errors
    /// The range is not within one live allocation.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Error> {
        let bytes = data.len() as u64;
        self.memory.write(address, data).map_err(|message| Error::HostAccess { address, bytes, message })
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// The range is not within one live allocation.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Error> {
        let bytes = out.len() as u64;
        self.memory.read(address, out).map_err(|message| Error::HostAccess { address, bytes, message })
    }

    /// Copies between two ranges of device memory, which may overlap. Bytes that nothing wrote stay so.
    ///
    /// # Errors
    /// A range is not within one live allocation.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        self.memory.copy(to, from, bytes).map_err(|message| Error::HostAccess { address: to, bytes, message })
    }

    /// Gives a range a name under which its traffic is counted.
    pub fn track(&mut self, name: &str, address: u64, bytes: u64) {
        self.tracked.push((name.to_string(), address, bytes));
    }

    /// Names an allocation, for reports.
    pub fn name(&mut self, address: u64, name: &str) {
        if let Some(i) = self.memory.find(address) {
            self.memory.allocs[i].name = Some(name.to_string());
        }
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.memory.used
    }

    /// Size in bytes of the live allocation that starts at `address`.
    pub fn allocation_bytes(&self, address: u64) -> Option<u64> {
        let a = &self.memory.allocs[self.memory.find(address)?];
        (a.base == address && !a.freed).then_some(a.bytes)
    }

    /// Places a module's variables in memory; launching does it when it was not done before.
    ///
    /// # Errors
    /// No memory, or an external variable that nothing defines.
    pub fn load(&mut self, module: &Module) -> Result<(), Error> {
        if self.loaded.contains_key(&module.id) {
            return Ok(());
        }
        let p = &module.program;
        let mut addresses = Vec::with_capacity(p.vars.len());
        for v in &p.vars {
            if v.external {
                addresses.push(0);
                continue;
            }
            let (bytes, align) = (v.bytes.max(1), u64::from(v.align.max(16)));
            // Variables start as zeros, their initialiser on top.
            let address = self.memory.alloc(bytes, align, true).map_err(|message| Error::Alloc {
                bytes,
                align,
                message,
            })?;
            self.write(address, &v.data)?;
            self.name(address, &v.name);
            addresses.push(address);
        }
        for (i, v) in p.vars.iter().enumerate() {
            // Declarations take the address of the definition of the same name.
            if v.external {
                match p.vars.iter().position(|o| o.name == v.name && !o.external) {
                    Some(k) => addresses[i] = addresses[k],
                    None => return Err(Error::Unresolved(v.name.clone())),
                }
            }
        }
        for (i, v) in p.vars.iter().enumerate() {
            for (offset, bytes, name, addend) in &v.relocations {
                let target = match p.vars.iter().position(|o| o.name == *name) {
                    Some(k) => addresses[k],
                    None => match p.by_name.get(name) {
                        Some(f) => crate::vm::window::CODE + u64::from(*f) * 16,
                        None => return Err(Error::Unresolved(name.clone())),
                    },
                };
                let v = target.wrapping_add(*addend as u64).to_le_bytes();
                self.write(addresses[i] + offset, &v[..*bytes as usize])?;
            }
        }
        for (i, v) in p.vars.iter().enumerate() {
            if v.constant
                && !v.external
                && let Some(k) = self.memory.find(addresses[i])
            {
                self.memory.allocs[k].read_only = true;
            }
        }
        self.loaded.insert(module.id, addresses);
        Ok(())
    }

    /// Address and size in bytes of a module's variable, once the module is loaded.
    pub fn symbol(&self, module: &Module, name: &str) -> Option<(u64, u64)> {
        let addresses = self.loaded.get(&module.id)?;
        let i = module.program.vars.iter().position(|v| v.name == name && !v.external)?;
        Some((addresses[i], module.program.vars[i].bytes))
    }

    /// Frees a module's variables.
    ///
    /// # Errors
    /// Never for a loaded module; unloading twice does nothing.
    pub fn unload(&mut self, module: &Module) -> Result<(), Error> {
        if let Some(addresses) = self.loaded.remove(&module.id) {
            for (a, v) in addresses.into_iter().zip(&module.program.vars) {
                if !v.external {
                    self.free(a)?;
                }
            }
        }
        Ok(())
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// Wrong arguments or launch shape, or a hard fault. Memory effects up to a fault remain.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        shape: LaunchConfig,
        args: &[Arg],
    ) -> Result<LaunchReport, Error> {
        let params = self.pack(module, kernel, args)?;
        self.launch_packed(module, kernel, shape, params)
    }

    /// Argument bytes at their parameter offsets.
    fn pack(&self, module: &Module, kernel: &str, args: &[Arg]) -> Result<Vec<u8>, Error> {
        let (_, code) = find(module, kernel)?;
        if args.len() != code.params.len() {
            return Err(Error::Argument {
                kernel: kernel.to_string(),
                index: args.len().min(code.params.len()),
                message: format!(
                    "the kernel takes {} arguments, {} were given",
                    code.params.len(),
                    args.len()
                ),
            });
        }
        let mut out = vec![0u8; code.param_bytes as usize];
        for (index, (arg, p)) in args.iter().zip(&code.params).enumerate() {
            let bytes = arg.bytes();
            if bytes.len() != p.bytes as usize {
                let what = if p.is_array { "an aggregate".to_string() } else { format!(".{}", p.ty.name()) };
                return Err(Error::Argument {
                    kernel: kernel.to_string(),
                    index,
                    message: format!(
                        "parameter `{}` is {what} of {} bytes, the argument has {}",
                        p.name,
                        p.bytes,
                        bytes.len()
                    ),
                });
            }
            let o = p.offset as usize;
            out[o..o + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(out)
    }

    /// Runs a kernel whose parameter memory is given as bytes, laid out as [`Module::kernel_params`] says.
    ///
    /// # Errors
    /// As for [`Machine::launch`].
    pub fn launch_packed(
        &mut self,
        module: &Module,
        kernel: &str,
        shape: LaunchConfig,
        params: Vec<u8>,
    ) -> Result<LaunchReport, Error> {
        let (entry, code) = find(module, kernel)?;
        let bad = |message: String| Error::Launch { kernel: kernel.to_string(), message };
        if params.len() != code.param_bytes as usize {
            return Err(bad(format!(
                "{} bytes of parameters, {} were given",
                code.param_bytes,
                params.len()
            )));
        }
        check_shape(shape, code.required_threads, code.max_threads).map_err(bad)?;
        self.load(module)?;
        let program = &*module.program;
        let layout = shared_layout(program, entry, shape.dynamic_shared_bytes);
        let real = layout.static_bytes + u64::from(shape.dynamic_shared_bytes);
        if real > self.config.shared_limit {
            return Err(bad(format!(
                "{real} bytes of shared memory, at most {} are possible",
                self.config.shared_limit
            )));
        }
        let reach = reachable(program, entry);
        self.launches += 1;
        self.memory.forget_accesses_of(self.launches);
        let globals = self.loaded.get(&module.id).cloned().unwrap_or_default();
        let templates = program
            .funcs
            .iter()
            .enumerate()
            .map(|(i, f)| {
                if reach.contains(&(i as u32)) {
                    grid::template(f, program, &globals, &layout.offsets, self.config.approx_seed)
                } else {
                    Default::default()
                }
            })
            .collect();
        let mut counter_base = Vec::with_capacity(program.funcs.len());
        let mut counters = 0;
        for f in &program.funcs {
            counter_base.push(counters);
            counters += f.ops.len();
        }
        let launch = Launch {
            program,
            entry,
            config: &self.config,
            global: &self.memory,
            templates,
            counter_base,
            counters,
            params,
            grid: shape.grid,
            block: shape.block,
            shared_ranges: layout.ranges,
            shared_bytes: layout.total as u32,
            dynamic_bytes: shape.dynamic_shared_bytes,
            exact_clocks: reach.iter().any(|i| program.funcs[*i as usize].partial_barriers),
            has_local: code.local_bytes > 16 || reach.len() > 1,
            tracked: self.tracked.iter().map(|(_, a, n)| (*a, a + n)).collect(),
            number: self.launches,
            stop: Default::default(),
            executed: Default::default(),
            sync: Default::default(),
        };
        let (worker, fault) = grid::run(&launch);
        if let Some(mut f) = fault {
            f.findings_dropped = worker.findings.dropped;
            f.findings = worker.findings.map.into_values().collect();
            return Err(Error::Fault(f));
        }
        let mut out = Counters { blocks: worker.blocks, shared_bytes: real, ..Counters::default() };
        for (fi, f) in program.funcs.iter().enumerate() {
            for (pc, info) in f.info.iter().enumerate() {
                let c = worker.counters[launch.counter_base[fi] + pc];
                if c.warp > 0 {
                    out.instructions.push(InstrLine {
                        function: f.name.clone(),
                        ptx_line: info.pos.line,
                        opcode: info.opcode.to_string(),
                        class: info.class,
                        source: program.source(info.loc),
                        counters: c,
                    });
                }
            }
        }
        let range = |name: String, base: u64, bytes: u64, t: &crate::vm::context::Traffic| RangeCounters {
            name,
            base,
            bytes,
            read_bytes: t.read,
            written_bytes: t.written,
            read_sector_bytes: t.read_sectors * 32,
            distinct_sector_bytes: t.distinct_sectors * 32,
            written_sector_bytes: t.written_sectors * 32,
        };
        for (a, t) in self.memory.allocs.iter().zip(&worker.traffic) {
            if t.read + t.written > 0 {
                let name = a.name.clone().unwrap_or_else(|| format!("0x{:x}", a.base));
                out.ranges.push(range(name, a.base, a.bytes, t));
            }
        }
        for ((name, base, bytes), t) in self.tracked.iter().zip(&worker.tracked) {
            out.ranges.push(range(name.clone(), *base, *bytes, t));
        }
        out.summarise();
        Ok(LaunchReport {
            findings_dropped: worker.findings.dropped,
            findings: worker.findings.map.into_values().collect(),
            counters: out,
        })
    }
}

fn find<'m>(module: &'m Module, kernel: &str) -> Result<(u32, &'m decode::Code), Error> {
    let p = &module.program;
    match p.by_name.get(kernel) {
        Some(i) if p.funcs[*i as usize].is_entry && !p.funcs[*i as usize].ops.is_empty() => {
            Ok((*i, &p.funcs[*i as usize]))
        }
        _ => Err(Error::NoKernel { name: kernel.to_string(), known: module.kernels().join(", ") }),
    }
}

fn check_shape(s: LaunchConfig, required: Option<[u32; 3]>, max: Option<u64>) -> Result<(), String> {
    let threads = s.block.iter().fold(1u64, |n, v| n.saturating_mul(u64::from(*v)));
    let blocks = s.grid.iter().fold(1u64, |n, v| n.saturating_mul(u64::from(*v)));
    if threads == 0 || blocks == 0 {
        return Err("grid and block dimensions must not be zero".to_string());
    }
    if threads > 1024 || s.block[2] > 64 {
        return Err(format!("{threads} threads in a block; at most 1024, and 64 in z, are possible"));
    }
    if s.grid[1] > 65535 || s.grid[2] > 65535 || s.grid[0] > i32::MAX as u32 {
        return Err("a grid has at most 2147483647 blocks in x and 65535 in y and z".to_string());
    }
    if blocks > u64::from(u32::MAX) / 2 {
        return Err(format!("{blocks} blocks are more than this machine counts"));
    }
    if let Some(r) = required
        && r != s.block
    {
        return Err(format!("the kernel requires blocks of {r:?} threads, {:?} were given", s.block));
    }
    if let Some(m) = max
        && threads > m
    {
        return Err(format!("the kernel allows {m} threads in a block, {threads} were given"));
    }
    Ok(())
}
