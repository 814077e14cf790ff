//! Devices, names, handles.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, result};

use super::{PTX, code, context, kernel};

pub(crate) fn nothing_visible() {
    assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_NO_DEVICE);
    assert_eq!(code(CudaContext::device_count()), CUresult::CUDA_ERROR_NO_DEVICE);
    assert!(crate::common::report().contains("set SOFTCUDA_DEVICES=1 to have one"));
}

pub(crate) fn bad_variable() {
    assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
}

pub(crate) fn sm_90() {
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let (first, second) = (context(), CudaContext::new(1).unwrap());
    assert_eq!(first.name().unwrap(), "softcuda (emulated sm_90)");
    assert_eq!(first.compute_capability().unwrap(), (9, 0));
    assert_eq!(first.total_mem().unwrap(), 8 << 30);
    assert!(first.has_async_alloc());
    assert_ne!(first.uuid().unwrap().bytes, second.uuid().unwrap().bytes);
    assert_eq!(code(CudaContext::new(2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(first.attribute(shared).unwrap(), 227 * 1024);
    let limit = sys::CUlimit::CU_LIMIT_STACK_SIZE;
    first.set_limit(limit, 4096).unwrap();
    assert_eq!(first.get_limit(limit).unwrap(), 4096);
    first.set_cache_config(sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1).unwrap();
    assert_eq!(first.get_cache_config().unwrap(), sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1);
    first.set_blocking_synchronize().unwrap();
    first.synchronize().unwrap();
    // The primary context can go and come back.
    drop(first);
    context().default_stream().alloc_zeros::<u8>(1).unwrap();
}

pub(crate) fn sm_80() {
    let context = context();
    assert_eq!(context.name().unwrap(), "softcuda (emulated sm_80)");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
}

/// The functions that cudarc 0.19.10 names in its `result` and `safe` modules.
const FUNCTIONS: &str = "cuInit cuDeviceGet cuDeviceGetCount cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 \
    cuDeviceTotalMem_v2 cuDeviceGetAttribute cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool \
    cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 \
    cuCtxGetCurrent cuCtxSetCurrent cuCtxSetFlags cuCtxSynchronize cuCtxGetLimit cuCtxSetLimit cuCtxGetCacheConfig \
    cuCtxSetCacheConfig cuCtxGetStreamPriorityRange cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 \
    cuStreamSynchronize cuStreamWaitEvent cuStreamAttachMemAsync cuStreamBeginCapture_v2 cuStreamEndCapture \
    cuStreamIsCapturing cuMemAlloc_v2 cuMemFree_v2 cuMemAllocAsync cuMemFreeAsync cuMemAllocFromPoolAsync \
    cuMemAllocManaged cuMemHostAlloc cuMemFreeHost cuMemGetInfo_v2 cuMemAdvise_v2 cuMemPrefetchAsync_v2 \
    cuMemcpyHtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoH_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoDAsync_v2 \
    cuMemcpyPeerAsync cuMemsetD8_v2 cuMemsetD8Async cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo \
    cuMemPoolGetAttribute cuMemPoolSetAttribute cuModuleLoad cuModuleLoadData cuModuleUnload cuModuleGetFunction \
    cuModuleGetGlobal_v2 cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuLaunchKernel \
    cuLaunchCooperativeKernel cuLaunchHostFunc cuOccupancyAvailableDynamicSMemPerBlock \
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags \
    cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags \
    cuOccupancyMaxPotentialClusterSize cuEventCreate cuEventRecord cuEventQuery cuEventSynchronize \
    cuEventElapsedTime cuEventElapsedTime_v2 cuEventDestroy_v2 cuGraphInstantiateWithFlags cuGraphLaunch \
    cuGraphUpload cuGraphDestroy cuGraphExecDestroy cuGetErrorName cuGetErrorString cuProfilerStart cuProfilerStop \
    cuImportExternalMemory cuExternalMemoryGetMappedBuffer cuDestroyExternalMemory";

pub(crate) fn symbols() {
    // SAFETY: the library is there, its functions are only looked for.
    let library = unsafe { sys::culib() };
    for name in FUNCTIONS.split_whitespace() {
        // SAFETY: as above.
        let found = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
        assert!(found.is_ok(), "{name} is missing");
    }
    result::init().unwrap();
    let lookup = |name: &CStr| {
        let (mut function, mut status) =
            (null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
        // SAFETY: valid pointers.
        let code = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut function, 12080, 0, &mut status) };
        (code, function)
    };
    let (code, function) = lookup(c"cuMemAlloc");
    assert_eq!(code, CUresult::CUDA_SUCCESS);
    // SAFETY: as above.
    let exported = unsafe { library.get::<unsafe extern "C" fn()>(b"cuMemAlloc_v2") }.unwrap();
    assert_eq!(function as usize, *exported as usize);
    assert_eq!(lookup(c"cuFancyThing"), (CUresult::CUDA_ERROR_NOT_FOUND, null_mut()));
    assert_eq!(lookup(c"malloc"), (CUresult::CUDA_ERROR_NOT_FOUND, null_mut()));
}

pub(crate) fn error_names() {
    let error = result::DriverError(CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_INVALID_PTX");
    assert_eq!(error.error_string().unwrap(), c"a PTX JIT compilation failed");
}

/// No nonsense handle or pointer crashes; each is an error that the report explains.
pub(crate) fn bad_handles() {
    use CUresult::{
        CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_INVALID_HANDLE,
        CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_INITIALIZED, CUDA_SUCCESS,
    };
    let mut number = 0;
    // SAFETY: everything below passes null, or addresses that a driver must not follow, on purpose; all other pointers
    // are valid for the call.
    unsafe {
        assert_eq!(sys::cuDeviceGet(&mut number, 0), CUDA_ERROR_NOT_INITIALIZED);
        let context = context();
        let stream = context.new_stream().unwrap();
        let event = context.new_event(None).unwrap();
        let scale = kernel(&context, "scale");
        let nonsense = 0xdead_beef_usize;

        assert_eq!(sys::cuDeviceGet(null_mut(), 0), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuDeviceGet(&mut number, -1), CUDA_ERROR_INVALID_DEVICE);
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE;
        assert_eq!(sys::cuDeviceGetAttribute(&mut number, attribute, 7), CUDA_ERROR_INVALID_DEVICE);
        for handle in [nonsense, event.cu_event() as usize, usize::MAX, 8] {
            assert_eq!(sys::cuStreamSynchronize(handle as _), CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuStreamDestroy_v2(handle as _), CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuMemcpyDtoDAsync_v2(1, 2, 3, handle as _), CUDA_ERROR_INVALID_HANDLE);
        }
        for handle in [nonsense, stream.cu_stream() as usize, 0] {
            assert_eq!(sys::cuEventRecord(handle as _, stream.cu_stream()), CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuEventQuery(handle as _), CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuStreamWaitEvent(stream.cu_stream(), handle as _, 0), CUDA_ERROR_INVALID_HANDLE);
            let mut function = null_mut();
            let found = sys::cuModuleGetFunction(&mut function, handle as _, c"scale".as_ptr());
            assert_eq!(found, CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuModuleUnload(handle as _), CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuGraphLaunch(handle as _, stream.cu_stream()), CUDA_ERROR_INVALID_HANDLE);
            let launched = sys::cuLaunchKernel(
                handle as _,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                stream.cu_stream(),
                null_mut(),
                null_mut(),
            );
            assert_eq!(launched, CUDA_ERROR_INVALID_HANDLE);
        }
        assert_eq!(sys::cuCtxSetCurrent(nonsense as _), CUDA_ERROR_INVALID_CONTEXT);
        assert_eq!(sys::cuCtxDestroy_v2(nonsense as _), CUDA_ERROR_INVALID_CONTEXT);
        // No parameters, null parameters, a null image, a null name.
        let launch = |parameters| {
            sys::cuLaunchKernel(
                scale.cu_function(),
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                stream.cu_stream(),
                parameters,
                null_mut(),
            )
        };
        assert_eq!(launch(null_mut()), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch([null_mut::<c_void>(); 3].as_mut_ptr()), CUDA_ERROR_INVALID_VALUE);
        let mut module = null_mut();
        assert_eq!(sys::cuModuleLoadData(&mut module, null()), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuModuleLoadData(null_mut(), PTX.as_ptr().cast()), CUDA_ERROR_INVALID_VALUE);
        // Copies from and to nowhere.
        assert_eq!(sys::cuMemcpyHtoD_v2(0x1000, PTX.as_ptr().cast(), 4), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyDtoH_v2((&raw mut number).cast(), 0x1000, 4), CUDA_ERROR_INVALID_VALUE);
        let data = stream.alloc_zeros::<u32>(4).unwrap();
        let address = cudarc::driver::DevicePtr::device_ptr(&data, &stream).0;
        assert_eq!(sys::cuMemcpyHtoD_v2(address, null(), 4), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyHtoD_v2(address, PTX.as_ptr().cast(), 17), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyHtoD_v2(address + 16, PTX.as_ptr().cast(), 1), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyHtoD_v2(address, PTX.as_ptr().cast(), usize::MAX), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(sys::cuMemcpyHtoD_v2(address, PTX.as_ptr().cast(), 16), CUDA_SUCCESS);
        // A stale handle.
        let stale = event.cu_event();
        drop(event);
        assert_eq!(sys::cuEventRecord(stale, stream.cu_stream()), CUDA_ERROR_INVALID_HANDLE);
        // No current context.
        assert_eq!(sys::cuCtxSetCurrent(null_mut()), CUDA_SUCCESS);
        assert_eq!(sys::cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
    }
    let report = crate::common::report();
    assert!(
        report.contains("cuModuleUnload: CUDA_ERROR_INVALID_HANDLE: 0xdeadbeef is not a module"),
        "{report}"
    );
    assert!(report.contains("scale has 3 parameters, none are given"), "{report}");
}
