//! Modules, functions, occupancy.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::abi::entry;
use crate::code::{Code, Fail, Res, invalid, unsupported};
use crate::driver::{Driver, Refused};
use crate::types::{BlockSizeToShared, Handle, In, LaunchConfig, Out, Text};

entry! {
    fn cuModuleLoad(driver, module: Out<Handle>, path: Text) {
        module.check()?;
        let path = path.string()?;
        let image = std::fs::read(&path)
            .map_err(|error| Fail::new(Code::FileNotFound, format!("{path}: {error}")))?;
        // A file may end with the NUL that the in-memory form needs.
        let image = image.strip_suffix(&[0]).unwrap_or(&image);
        module.set(Handle::from_id(load(driver, image, &JitOptions::default())?))
    }

    fn cuModuleLoadData(driver, module: Out<Handle>, image: Text) {
        module.check()?;
        module.set(Handle::from_id(load(driver, &image.bytes()?, &JitOptions::default())?))
    }

    fn cuModuleLoadDataEx(
        driver, module: Out<Handle>, image: Text, count: c_uint, options: In<c_int>, values: In<usize>,
    ) {
        module.check()?;
        let jit = JitOptions::read(count, &options, values)?;
        module.set(Handle::from_id(load(driver, &image.bytes()?, &jit)?))
    }

    fn cuModuleLoadFatBinary(_driver, _module: Out<Handle>, _image: In<c_void>) {
        Err(Fail::new(Code::NoBinaryForGpu, "fat binaries hold machine code; softcuda executes PTX text only"))
    }

    fn cuModuleUnload(driver, module: Handle) {
        driver.module_unload(module.id())
    }

    fn cuModuleGetFunction(driver, function: Out<Handle>, module: Handle, name: Text) {
        function.check()?;
        function.set(Handle::from_id(driver.module_function(module.id(), &name.string()?)?))
    }

    fn cuModuleGetFunctionCount(driver, count: Out<c_uint>, module: Handle) {
        count.set(driver.module_function_count(module.id())? as c_uint)
    }

    fn cuModuleGetGlobal_v2(driver, address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let (first, size) = driver.module_global(module.id(), &name.string()?)?;
        address.set_if_wanted(first);
        bytes.set_if_wanted(size);
        Ok(())
    }

    fn cuModuleGetLoadingMode(_driver, mode: Out<c_int>) {
        // CU_MODULE_EAGER_LOADING
        mode.set(1)
    }

    fn cuFuncGetModule(driver, module: Out<Handle>, function: Handle) {
        module.set(Handle::from_id(driver.function_module(function.id())?))
    }

    fn cuFuncGetParamInfo(
        driver, function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>,
    ) {
        let kernel = driver.function_kernel(function.id())?;
        let parameter = kernel.parameters.get(index).ok_or_else(|| {
            invalid(format!("{} has {} parameters", kernel.name, kernel.parameters.len()))
        })?;
        offset.set(parameter.offset)?;
        bytes.set_if_wanted(parameter.bytes);
        Ok(())
    }

    fn cuFuncGetAttribute(driver, value: Out<c_int>, attribute: c_int, function: Handle) {
        value.set(driver.function_attribute(function.id(), attribute)?)
    }

    fn cuFuncSetAttribute(driver, function: Handle, attribute: c_int, value: c_int) {
        driver.function_set_attribute(function.id(), attribute, value)
    }

    fn cuFuncSetCacheConfig(driver, function: Handle, config: c_int) {
        driver.function_set_cache_config(function.id(), config)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        driver, blocks: Out<c_int>, function: Handle, threads: c_int, shared: usize,
    ) {
        blocks.set(driver.occupancy_blocks(function.id(), threads, shared)? as c_int)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        driver, blocks: Out<c_int>, function: Handle, threads: c_int, shared: usize, flags: c_uint,
    ) {
        check_flags(flags)?;
        blocks.set(driver.occupancy_blocks(function.id(), threads, shared)? as c_int)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        driver,
        grid: Out<c_int>,
        block: Out<c_int>,
        function: Handle,
        by_size: Option<BlockSizeToShared>,
        shared: usize,
        limit: c_int,
    ) {
        block_size(driver, (grid, block), function, by_size, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        driver,
        grid: Out<c_int>,
        block: Out<c_int>,
        function: Handle,
        by_size: Option<BlockSizeToShared>,
        shared: usize,
        limit: c_int,
        flags: c_uint,
    ) {
        check_flags(flags)?;
        block_size(driver, (grid, block), function, by_size, shared, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        driver, bytes: Out<usize>, function: Handle, blocks: c_int, threads: c_int,
    ) {
        bytes.set(driver.occupancy_shared(function.id(), blocks, threads)?)
    }

    fn cuOccupancyMaxPotentialClusterSize(
        driver, _size: Out<c_int>, function: Handle, _config: In<LaunchConfig>,
    ) {
        driver.function_kernel(function.id())?;
        Err(unsupported("clusters of more than one block do not exist here"))
    }

    fn cuOccupancyMaxActiveClusters(
        driver, _clusters: Out<c_int>, function: Handle, _config: In<LaunchConfig>,
    ) {
        driver.function_kernel(function.id())?;
        Err(unsupported("clusters of more than one block do not exist here"))
    }
}

/// The options of a load that are looked at: where to write logs. An option is a number, its value a pointer or a
/// number of the same width.
#[derive(Default)]
struct JitOptions {
    /// Buffer, and the number of the option that says its size.
    logs: Vec<(usize, usize, bool)>,
    /// Where the array of values lies.
    values: usize,
    sizes: [Option<usize>; 2],
}

const INFO_LOG: c_int = 3;
const INFO_LOG_BYTES: c_int = 4;
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

impl JitOptions {
    fn read(count: c_uint, options: &In<c_int>, values: In<usize>) -> Res<JitOptions> {
        let mut jit = JitOptions { values: values.address(), ..JitOptions::default() };
        let (mut buffers, mut sizes) = ([None; 2], [None; 2]);
        for index in 0..count as usize {
            let value = values.at(index)?;
            match options.at(index)? {
                INFO_LOG => buffers[0] = Some(value),
                ERROR_LOG => buffers[1] = Some(value),
                INFO_LOG_BYTES => sizes[0] = Some((value, index)),
                ERROR_LOG_BYTES => sizes[1] = Some((value, index)),
                // Optimisation levels, targets and the like change nothing about an emulator.
                _ => {}
            }
        }
        for (which, (buffer, size)) in buffers.into_iter().zip(sizes).enumerate() {
            if let (Some(buffer), Some((bytes, index))) = (buffer, size) {
                // The size is an unsigned int in the low half of the value.
                jit.logs.push((buffer, bytes & 0xFFFF_FFFF, which == 1));
                jit.sizes[which] = Some(index);
            }
        }
        Ok(jit)
    }

    /// Writes the logs and how long they are.
    fn store(&self, error: &str) -> Res<()> {
        for (buffer, room, is_error) in &self.logs {
            let text = if *is_error { error } else { "" };
            let mut bytes: Vec<u8> = text.bytes().take(room.saturating_sub(1)).collect();
            let written = bytes.len();
            if *room > 0 {
                bytes.push(0);
                Out::at(*buffer as *mut c_char).cast::<u8>().set_all(&bytes)?;
            }
            if let Some(index) = self.sizes[usize::from(*is_error)] {
                let slot = self.values + index * size_of::<usize>();
                Out::at(slot as *mut usize).set(written)?;
            }
        }
        Ok(())
    }
}

fn load(driver: &Driver, image: &[u8], jit: &JitOptions) -> Res<u64> {
    match driver.module_load(image) {
        Ok(id) => {
            jit.store("")?;
            Ok(id)
        }
        Err(Refused { fail, log }) => {
            jit.store(&log)?;
            Err(fail)
        }
    }
}

/// CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE is 1.
fn check_flags(flags: c_uint) -> Res<()> {
    if flags > 1 { Err(invalid(format!("0x{flags:x} are not occupancy flags"))) } else { Ok(()) }
}

fn block_size(
    driver: &Driver,
    (grid, block): (Out<c_int>, Out<c_int>),
    function: Handle,
    by_size: Option<BlockSizeToShared>,
    shared: usize,
    limit: c_int,
) -> Res<()> {
    grid.check()?;
    block.check()?;
    let bytes = |threads: u32| match by_size {
        // SAFETY: the program's function, which takes any block size.
        Some(by_size) => unsafe { by_size(threads as c_int) },
        None => shared,
    };
    let choice = driver.occupancy_block_size(function.id(), bytes, limit)?;
    grid.set(choice.grid as c_int)?;
    block.set(choice.block as c_int)
}
