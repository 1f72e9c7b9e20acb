//! What an instance's memories and tables may have, beyond the fixed limits of the C API: each
//! growth, and what they begin with, is asked for.

use std::mem::{align_of, size_of};

use wasmtime_c_api::wasmtime::*;
use wasmtime_c_api::*;

/// One store's. It belongs to C, stays where it is until the store is deleted, and is mirrored in
/// `engine/include/weir_engine.h`.
#[repr(C)]
pub struct Limit {
    memory_max: usize,
    table_max: usize,
    /// Bytes that were asked for and given: the caller's to give back when the store goes.
    held: u64,
    /// Whether there are that many bytes more.
    take: extern "C" fn(*mut Limit, u64) -> bool,
}

const _: () = assert!(
    size_of::<Store<WasmtimeStoreData>>() == size_of::<wasmtime_store_t>()
        && align_of::<Store<WasmtimeStoreData>>() == align_of::<wasmtime_store_t>()
);

impl Limit {
    fn take(&mut self, from: usize, to: usize) -> Result<bool> {
        let n = to.saturating_sub(from) as u64;
        let given = (self.take)(self, n);
        self.held += if given { n } else { 0 };
        Ok(given)
    }
}

impl ResourceLimiter for Limit {
    fn memory_growing(&mut self, from: usize, to: usize, most: Option<usize>) -> Result<bool> {
        // What fails for another reason must not be asked for: there is no giving back.
        if to > self.memory_max.min(most.unwrap_or(usize::MAX)) {
            return Ok(false);
        }
        self.take(from, to)
    }

    fn table_growing(&mut self, from: usize, to: usize, most: Option<usize>) -> Result<bool> {
        if to > self.table_max.min(most.unwrap_or(usize::MAX)) {
            return Ok(false);
        }
        let size = size_of::<usize>();
        self.take(from.saturating_mul(size), to.saturating_mul(size))
    }
}

/// From now on `limit` is asked by the store's instances.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_store_limit(store: *mut wasmtime_store_t, limit: *mut Limit) {
    struct At(*mut Limit);
    // A store and its limit stay with one thread.
    unsafe impl Send for At {}
    unsafe impl Sync for At {}
    impl At {
        fn get<'a>(&self) -> &'a mut Limit {
            unsafe { &mut *self.0 }
        }
    }
    let at = At(limit);
    let store = unsafe { &mut *(store as *mut Store<WasmtimeStoreData>) };
    store.limiter(move |_| at.get());
}
