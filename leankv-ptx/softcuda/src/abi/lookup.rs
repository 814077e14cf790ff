//! Finding a function by name, as programs do that look every function up at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_ulonglong, c_void};

use crate::abi::entry;
use crate::code::{Code, Fail, Res, invalid};
use crate::types::{Out, Text};

// Declared here so that no further crate is needed; both are in the C library that Rust's standard library links.
unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dladdr(address: *const c_void, info: *mut SymbolInfo) -> c_int;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
}

/// `Dl_info`.
#[repr(C)]
struct SymbolInfo {
    file: *const c_char,
    base: *mut c_void,
    name: *const c_char,
    address: *mut c_void,
}

/// Names whose newer form came with a version of the interface: plain name, first version, exported name. The last
/// entry that fits wins.
const VERSIONS: [(&str, c_int, &str); 34] = [
    ("cuDeviceTotalMem", 3020, "cuDeviceTotalMem_v2"),
    ("cuDevicePrimaryCtxRelease", 7000, "cuDevicePrimaryCtxRelease_v2"),
    ("cuDevicePrimaryCtxReset", 7000, "cuDevicePrimaryCtxReset_v2"),
    ("cuDevicePrimaryCtxSetFlags", 7000, "cuDevicePrimaryCtxSetFlags_v2"),
    ("cuCtxCreate", 3020, "cuCtxCreate_v2"),
    ("cuCtxCreate", 11040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 12050, "cuCtxCreate_v4"),
    ("cuCtxDestroy", 4000, "cuCtxDestroy_v2"),
    ("cuCtxPushCurrent", 4000, "cuCtxPushCurrent_v2"),
    ("cuCtxPopCurrent", 4000, "cuCtxPopCurrent_v2"),
    ("cuDeviceGetUuid", 11040, "cuDeviceGetUuid_v2"),
    ("cuMemAlloc", 3020, "cuMemAlloc_v2"),
    ("cuMemAllocPitch", 3020, "cuMemAllocPitch_v2"),
    ("cuMemFree", 3020, "cuMemFree_v2"),
    ("cuMemGetInfo", 3020, "cuMemGetInfo_v2"),
    ("cuMemGetAddressRange", 3020, "cuMemGetAddressRange_v2"),
    ("cuMemAllocHost", 3020, "cuMemAllocHost_v2"),
    ("cuMemHostGetDevicePointer", 3020, "cuMemHostGetDevicePointer_v2"),
    ("cuMemHostRegister", 6050, "cuMemHostRegister_v2"),
    ("cuMemcpyHtoD", 3020, "cuMemcpyHtoD_v2"),
    ("cuMemcpyDtoH", 3020, "cuMemcpyDtoH_v2"),
    ("cuMemcpyDtoD", 3020, "cuMemcpyDtoD_v2"),
    ("cuMemcpyHtoDAsync", 3020, "cuMemcpyHtoDAsync_v2"),
    ("cuMemcpyDtoHAsync", 3020, "cuMemcpyDtoHAsync_v2"),
    ("cuMemcpyDtoDAsync", 3020, "cuMemcpyDtoDAsync_v2"),
    ("cuMemsetD8", 3020, "cuMemsetD8_v2"),
    ("cuMemsetD16", 3020, "cuMemsetD16_v2"),
    ("cuMemsetD32", 3020, "cuMemsetD32_v2"),
    ("cuModuleGetGlobal", 3020, "cuModuleGetGlobal_v2"),
    ("cuStreamDestroy", 4000, "cuStreamDestroy_v2"),
    ("cuStreamBeginCapture", 10010, "cuStreamBeginCapture_v2"),
    ("cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"),
    ("cuEventDestroy", 4000, "cuEventDestroy_v2"),
    ("cuGetProcAddress", 12000, "cuGetProcAddress_v2"),
];

entry! {
    fn cuGetProcAddress_v2(
        _driver,
        name: Text,
        function: Out<*mut c_void>,
        version: c_int,
        _flags: c_ulonglong,
        status: Out<c_int>,
    ) {
        function.check()?;
        let name = name.string()?;
        match find(exported(&name, version)) {
            Ok(address) => {
                status.set_if_wanted(0);
                function.set(address)
            }
            Err(fail) => {
                function.set(std::ptr::null_mut())?;
                // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
                status.set_if_wanted(1);
                Err(fail)
            }
        }
    }
}

/// The exported name that a plain name means in a version of the interface.
fn exported(name: &str, version: c_int) -> &str {
    let mut fitting = VERSIONS.iter().filter(|(plain, first, _)| *plain == name && version >= *first);
    fitting.next_back().map_or(name, |(.., exported)| exported)
}

/// The address of a function of this library.
fn find(name: &str) -> Res<*mut c_void> {
    let missing = || Fail::new(Code::NotFound, format!("{name} does not exist here"));
    if !name.starts_with("cu") {
        return Err(missing());
    }
    let name_c = CString::new(name).map_err(|_| invalid("a name with a NUL"))?;
    let mut info = SymbolInfo {
        file: std::ptr::null(),
        base: std::ptr::null_mut(),
        name: std::ptr::null(),
        address: std::ptr::null_mut(),
    };
    let here = super::device::cuInit as *const c_void;
    // SAFETY: `here` is an address in this library; `info` is valid for the call's result.
    let known = unsafe { dladdr(here, &raw mut info) };
    if known == 0 || info.file.is_null() {
        return Err(missing());
    }
    const NOW: c_int = 2;
    const NO_LOAD: c_int = 4;
    // SAFETY: `file` is the NUL-terminated path under which this library is loaded, so nothing new is loaded.
    let library = unsafe { dlopen(CStr::from_ptr(info.file).as_ptr(), NOW | NO_LOAD) };
    if library.is_null() {
        return Err(missing());
    }
    // SAFETY: an open library and a NUL-terminated name. The library stays open, as it was.
    let address = unsafe { dlsym(library, name_c.as_ptr()) };
    if address.is_null() { Err(missing()) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_means_the_newest_form_the_caller_knows() {
        assert_eq!(exported("cuMemAlloc", 12080), "cuMemAlloc_v2");
        assert_eq!(exported("cuCtxCreate", 12000), "cuCtxCreate_v3");
        assert_eq!(exported("cuCtxCreate", 12050), "cuCtxCreate_v4");
        assert_eq!(exported("cuLaunchKernel", 12080), "cuLaunchKernel");
        assert_eq!(exported("cuMemAlloc", 2000), "cuMemAlloc");
    }
}
