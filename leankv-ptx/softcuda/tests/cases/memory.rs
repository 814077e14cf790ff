//! Device memory, page-locked memory, pools.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{DevicePtr, result};

use super::{code, context};

pub(crate) fn copies() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let numbers: Vec<u32> = (0..1000).collect();
    let mut a = stream.clone_htod(&numbers).unwrap();
    let b = stream.clone_dtod(&a.slice(100..200)).unwrap();
    assert_eq!(stream.clone_dtoh(&b).unwrap(), &numbers[100..200]);
    stream.memset_zeros(&mut a.slice_mut(10..20)).unwrap();
    stream.memcpy_htod(&[7, 8], &mut a.slice_mut(0..2)).unwrap();
    let back = stream.clone_dtoh(&a).unwrap();
    assert_eq!(back[..3], [7, 8, 2]);
    assert_eq!(back[9..21], [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    assert_eq!(stream.clone_dtoh(&stream.alloc_zeros::<f64>(3).unwrap()).unwrap(), [0.0; 3]);
    assert!(stream.null::<u8>().is_ok() == context.has_async_alloc());
    // Wider fills, and a copy in which ranges overlap.
    // SAFETY: ranges of a live buffer.
    unsafe {
        let address = a.device_ptr(&stream).0;
        assert_eq!(sys::cuMemsetD32_v2(address, 0x0102_0304, 4), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemsetD16_v2(address + 16, 0xABCD, 2), CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuMemsetD32_v2(address + 2, 0, 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        result::memcpy_dtod_sync(address + 4, address, 20).unwrap();
    }
    let filled = 0x0102_0304;
    assert_eq!(
        stream.clone_dtoh(&a.slice(0..6)).unwrap(),
        [filled, filled, filled, filled, filled, 0xABCD_ABCD]
    );
    // Page-locked memory.
    // SAFETY: written before it is read.
    let mut locked = unsafe { context.alloc_pinned::<u32>(8) }.unwrap();
    locked.as_mut_slice().unwrap().copy_from_slice(&[5; 8]);
    let c = stream.clone_htod(&locked).unwrap();
    locked.as_mut_slice().unwrap().fill(0);
    stream.memcpy_dtoh(&c, &mut locked).unwrap();
    assert_eq!(locked.as_slice().unwrap(), [5; 8]);
}

pub(crate) fn runs_out() {
    let context = context();
    let stream = context.default_stream();
    let (free, total) = context.mem_get_info().unwrap();
    assert_eq!((free, total), (1 << 20, 1 << 20));
    let most = stream.alloc_zeros::<u8>(1 << 19).unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, 1 << 19);
    assert_eq!(code(stream.alloc_zeros::<u8>((1 << 19) + 1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    drop(most);
    stream.synchronize().unwrap();
    drop(stream.alloc_zeros::<u8>(1 << 20).unwrap());
}

pub(crate) fn frees() {
    let context = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: wrong frees are the point; a driver must refuse them.
    unsafe {
        let address = result::malloc_sync(64).unwrap();
        assert_eq!(code(result::free_sync(address + 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(address).unwrap();
        assert_eq!(code(result::free_sync(address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::memset_d8_sync(address, 0, 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        let address = result::malloc_async(stream.cu_stream(), 64).unwrap();
        result::free_async(address, stream.cu_stream()).unwrap();
        assert_eq!(code(result::free_async(address, stream.cu_stream())), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_host(16 as *mut _)), CUresult::CUDA_ERROR_INVALID_VALUE);
        // Facts of an address.
        let address = result::malloc_sync(64).unwrap();
        let mut kind = 0u32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        let asked = sys::cuPointerGetAttribute((&raw mut kind).cast(), attribute, address + 10);
        assert_eq!((asked, kind), (CUresult::CUDA_SUCCESS, 2));
        let (mut start, mut bytes) = (0, 0);
        let asked = sys::cuMemGetAddressRange_v2(&mut start, &mut bytes, address + 63);
        assert_eq!((asked, start, bytes), (CUresult::CUDA_SUCCESS, address, 64));
        result::free_sync(address).unwrap();
        let (mut managed, flags) = (0, 1);
        let refused = sys::cuMemAllocManaged(&mut managed, 64, flags);
        assert_eq!(refused, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
}

pub(crate) fn pools() {
    let context = context();
    let stream = context.default_stream();
    // SAFETY: the pool is the device's own; values have the attribute's width.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).unwrap();
        let used = || {
            let mut used = 0u64;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
            result::mem_pool::get_attribute(pool, attribute, (&raw mut used).cast()).unwrap();
            used
        };
        assert_eq!(used(), 0);
        let address = result::mem_pool::alloc_async(pool, 4096, stream.cu_stream()).unwrap();
        assert_eq!(used(), 4096);
        result::free_async(address, stream.cu_stream()).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(used(), 0);
        let (attribute, mut keep) = (sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, 1u64 << 40);
        result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()).unwrap();
        keep = 0;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut keep).cast()).unwrap();
        assert_eq!(keep, 1 << 40);
        assert_eq!(code(result::mem_pool::destroy(pool)), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}
