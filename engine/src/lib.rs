//! Wasmtime's C API, linked whole, and the few calls that it lacks:
//!
//! * one function that makes the settings of both builds, so that worker and compiler agree in
//!   every tunable (`wasm_engine_new_with_config` also aborts on an error, and has no
//!   `pagemap_scan`);
//! * loading a module from an open descriptor (half the memory of loading bytes);
//! * one future for "instantiate, initialise, call" instead of three, and instances that are kept
//!   for the next call (call.rs).
//!
//! Everything else is C and uses the official headers. Unwinding never crosses into C: the crate
//! is built with `panic = "abort"`, and the supervisor answers a worker's death.

use std::ffi::{CString, c_char, c_void};
use std::mem::{ManuallyDrop, align_of, size_of};

pub use wasmtime_c_api::*;
use wasmtime_c_api::wasmtime::*;

mod call;
mod limit;
#[cfg(feature = "compiler")]
mod bulk;
#[cfg(feature = "compiler")]
mod compiler;
#[cfg(feature = "compiler")]
mod names;
#[cfg(feature = "compiler")]
mod restore;
#[cfg(feature = "compiler")]
mod snapshot;
#[cfg(feature = "compiler")]
mod splice;

/// Guest stack and the host's share of a fiber: both builds compile the first into the code.
const WASM_STACK: usize = 64 << 10;
const FIBER_STACK: usize = 128 << 10;

/// `wasm_engine_t` is a `repr(C)` struct of one private `Engine`; this is the same shape.
#[repr(C)]
struct EngineShape {
    engine: Engine,
}
const _: () = assert!(
    size_of::<EngineShape>() == size_of::<wasm_engine_t>()
        && align_of::<EngineShape>() == align_of::<wasm_engine_t>()
        && size_of::<Module>() == size_of::<wasmtime_module_t>()
        && size_of::<InstancePre<WasmtimeStoreData>>() == size_of::<wasmtime_instance_pre_t>()
);

/// What a worker's engine may hold at once. Mirrored in `engine/include/weir_engine.h`.
#[repr(C)]
pub struct EngineOptions {
    /// Instances, memories, tables and fibers that exist at one time.
    slots: u32,
    /// The most elements that a table of any module may have.
    table_elements: u32,
    /// The largest linear memory of any module, in bytes.
    memory_max: usize,
    /// Bytes of a freed memory that stay mapped for the next instance, with a kernel that can
    /// report written pages (Linux 6.7) and with one that can't and must clear them all.
    keep_scanned: usize,
    keep_cleared: usize,
    /// Whether the kernel is asked to report them at all.
    scan: bool,
}

fn settings(target: Option<&str>) -> Result<Config> {
    let mut c = Config::new();
    if let Some(target) = target {
        c.target(target)?;
    }
    c.epoch_interruption(true);
    c.async_stack_size(FIBER_STACK);
    c.max_wasm_stack(WASM_STACK);
    // Set, not left to WASMTIME_BACKTRACE_DETAILS: it is part of what a compiled module records.
    c.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    c.wasm_gc(false);
    c.wasm_function_references(false);
    c.wasm_exceptions(false);
    c.wasm_memory64(false);
    c.wasm_multi_memory(false);
    Ok(c)
}

fn put_error(e: &Error, out: *mut *mut c_char) {
    let text = CString::new(format!("{e:?}").replace('\0', " ")).unwrap_or_default();
    unsafe { *out = text.into_raw() };
}

/// Frees a text that a call of this file returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_text_delete(text: *mut c_char) {
    if !text.is_null() {
        drop(unsafe { CString::from_raw(text) });
    }
}

fn engine_out(made: Result<Engine>, error: *mut *mut c_char) -> *mut wasm_engine_t {
    match made {
        Ok(engine) => Box::into_raw(Box::new(EngineShape { engine })) as *mut wasm_engine_t,
        Err(e) => {
            put_error(&e, error);
            std::ptr::null_mut()
        }
    }
}

/// A worker's engine, with its instance pool. NULL and `*error` set where the options or the
/// machine do not allow it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_engine_new(
    options: &EngineOptions,
    pulley: bool,
    error: *mut *mut c_char,
) -> *mut wasm_engine_t {
    let make = || -> Result<Engine> {
        let mut c = settings(pulley.then_some("pulley64"))?;
        let scan = options.scan && PoolingAllocationConfig::is_pagemap_scan_available();
        let keep = if scan { options.keep_scanned } else { options.keep_cleared };
        let mut p = PoolingAllocationConfig::default();
        p.total_core_instances(options.slots)
            .total_memories(options.slots)
            .total_tables(options.slots)
            .total_stacks(options.slots)
            .table_elements(options.table_elements as usize)
            .max_memory_size(options.memory_max)
            .linear_memory_keep_resident(keep)
            .table_keep_resident(keep)
            .max_unused_warm_slots(options.slots)
            .pagemap_scan(if scan { Enabled::Auto } else { Enabled::No });
        c.allocation_strategy(InstanceAllocationStrategy::Pooling(p));
        Engine::new(&c)
    };
    engine_out(make(), error)
}

/// Loads a compiled module from an open file, of which it takes ownership. The content is native
/// code: the caller vouches for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_module_load(
    engine: &wasm_engine_t,
    fd: i32,
    error: *mut *mut c_char,
) -> *mut wasmtime_module_t {
    use std::os::fd::FromRawFd;
    let shape = unsafe { &*(engine as *const wasm_engine_t as *const EngineShape) };
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    match unsafe { Module::deserialize_open_file(&shape.engine, file) } {
        Ok(m) => {
            let m = ManuallyDrop::new(m);
            let raw = unsafe { std::mem::transmute_copy::<_, wasmtime_module_t>(&m) };
            Box::into_raw(Box::new(raw))
        }
        Err(e) => {
            put_error(&e, error);
            std::ptr::null_mut()
        }
    }
}

/// Tells of each function of a module where its code begins and ends, its index and its name (none:
/// an empty one), in the order of their indices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_module_functions(
    module: &wasmtime_module_t,
    tell: extern "C" fn(*mut c_void, usize, usize, u32, *const u8, usize),
    arg: *mut c_void,
) {
    let module = unsafe { &*(module as *const wasmtime_module_t as *const Module) };
    let text = module.text().as_ptr() as usize;
    for f in module.functions() {
        let (from, name) = (text + f.offset, f.name.unwrap_or_default());
        tell(arg, from, from + f.len, f.index.as_u32(), name.as_ptr(), name.len());
    }
}
