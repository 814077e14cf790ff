//! Kernel launches: from the program's pointers to the bytes of each parameter.

use std::ffi::{c_uint, c_void};

use crate::abi::entry;
use crate::code::{Res, invalid, unsupported};
use crate::driver::{Arguments, Driver, LaunchRequest};
use crate::types::{Handle, In, LaunchConfig};

entry! {
    fn cuLaunchKernel(
        driver,
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: Handle,
        parameters: In<usize>,
        extra: In<usize>,
    ) {
        driver.launch(LaunchRequest {
            function: function.id(),
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared_bytes,
            stream: stream.id(),
            cooperative: false,
            arguments: arguments(driver, function, parameters, extra)?,
        })
    }

    fn cuLaunchCooperativeKernel(
        driver,
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: Handle,
        parameters: In<usize>,
    ) {
        driver.launch(LaunchRequest {
            function: function.id(),
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared_bytes,
            stream: stream.id(),
            cooperative: true,
            arguments: arguments(driver, function, parameters, In::null())?,
        })
    }

    fn cuLaunchKernelEx(
        driver, config: In<LaunchConfig>, function: Handle, parameters: In<usize>, extra: In<usize>,
    ) {
        let config = config.get()?;
        let cooperative = cooperative(&config)?;
        driver.launch(LaunchRequest {
            function: function.id(),
            grid: config.grid,
            block: config.block,
            shared_bytes: config.shared_bytes,
            stream: config.stream.id(),
            cooperative,
            arguments: arguments(driver, function, parameters, extra)?,
        })
    }
}

/// What the launch attributes ask for. Those that only hint at caches and schedules change nothing here.
fn cooperative(config: &LaunchConfig) -> Res<bool> {
    let attributes = In::new(config.attributes);
    let mut cooperative = false;
    for index in 0..config.attribute_count as usize {
        let attribute = attributes.at(index)?;
        match attribute.id {
            2 => cooperative = attribute.value[0] != 0,
            4 if attribute.value[..3].iter().any(|extent| *extent > 1) => {
                return Err(unsupported("clusters of more than one block do not exist here"));
            }
            _ => {}
        }
    }
    Ok(cooperative)
}

/// Ends the list in `extra`.
const END: usize = 0;
/// The next entry is a buffer that holds all parameters.
const BUFFER: usize = 1;
/// The next entry points to the size of that buffer.
const BUFFER_BYTES: usize = 2;

/// Copies the parameters' bytes: a launch keeps nothing of the program's memory.
fn arguments(driver: &Driver, function: Handle, parameters: In<usize>, extra: In<usize>) -> Res<Arguments> {
    let kernel = driver.function_kernel(function.id())?;
    if !parameters.is_null() {
        if !extra.is_null() {
            return Err(invalid("parameters are given one by one or as a buffer, not both"));
        }
        let each = kernel.parameters.iter().enumerate().map(|(index, parameter)| {
            let pointer = parameters.at(index)?;
            copy(pointer, parameter.bytes)
                .ok_or_else(|| invalid(format!("{}: the pointer to parameter {index} is null", kernel.name)))
        });
        return Ok(Arguments::Each(each.collect::<Res<_>>()?));
    }
    if extra.is_null() {
        if kernel.parameters.is_empty() {
            return Ok(Arguments::Each(Vec::new()));
        }
        return Err(invalid(format!(
            "{} has {} parameters, none are given",
            kernel.name,
            kernel.parameters.len()
        )));
    }
    let (mut buffer, mut bytes) = (0, None);
    let mut index = 0;
    loop {
        match extra.at(index)? {
            END => break,
            BUFFER => buffer = extra.at(index + 1)?,
            BUFFER_BYTES => bytes = Some(In::new(extra.at(index + 1)? as *const usize).get()?),
            other => return Err(invalid(format!("{other} is not an entry of the extra launch options"))),
        }
        index += 2;
    }
    let bytes = bytes.ok_or_else(|| invalid("the parameter buffer has no size"))?;
    copy(buffer, bytes).map(Arguments::Packed).ok_or_else(|| invalid("the parameter buffer is null"))
}

/// Bytes at an address that the program promises to be readable; none for the null address.
fn copy(address: usize, bytes: usize) -> Option<Vec<u8>> {
    let pointer = address as *const c_void;
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null; by the driver interface's contract each parameter pointer is readable for the size of its
    // parameter, and the buffer for the size given with it.
    Some(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), bytes) }.to_vec())
}
