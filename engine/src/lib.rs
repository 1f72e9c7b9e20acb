//! Wasmtime's C API, linked whole, and the few calls that it lacks:
//!
//! * one function that makes the settings of both builds, so that worker and compiler agree in
//!   every tunable (`wasm_engine_new_with_config` also aborts on an error, and has no
//!   `pagemap_scan`);
//! * loading a module from an open descriptor (half the memory of loading bytes);
//! * one future for "instantiate, initialise, call" instead of three.
//!
//! Everything else is C and uses the official headers. Unwinding never crosses into C: the crate
//! is built with `panic = "abort"`, and the supervisor answers a worker's death.

use std::ffi::{CStr, CString, c_char};
use std::future::Future;
use std::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub use wasmtime_c_api::*;
use wasmtime_c_api::wasmtime::*;

#[cfg(feature = "compiler")]
mod compiler;
#[cfg(feature = "compiler")]
mod snapshot;

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
        let scan = PoolingAllocationConfig::is_pagemap_scan_available();
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
            .pagemap_scan(Enabled::Auto);
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

type Data = WasmtimeStoreData;

/// One exported function of a module that is ready to be instantiated.
pub struct Entry {
    pre: InstancePre<Data>,
    func: ModuleExport,
    init: Option<ModuleExport>,
    memory: Option<ModuleExport>,
}

/// NULL where the module exports no function of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_entry_new(
    pre: *const wasmtime_instance_pre_t,
    name: *const c_char,
) -> Option<Box<Entry>> {
    let pre = unsafe { &*(pre as *const InstancePre<Data>) };
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    let module = pre.module();
    let find = |n: &str, func: bool| match module.get_export(n) {
        Some(ExternType::Func(_)) if func => module.get_export_index(n),
        Some(ExternType::Memory(_)) if !func => module.get_export_index(n),
        _ => None,
    };
    Some(Box::new(Entry {
        func: find(name, true)?,
        init: find("_initialize", true),
        memory: find("memory", false),
        pre: pre.clone(),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn weir_entry_delete(_entry: Box<Entry>) {}

pub const VALUES_MAX: usize = 16;

/// A number of WebAssembly: `kind` is a `wasmtime_valkind_t` of I32, I64, F32 or F64.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Value {
    kind: u8,
    bits: u64,
}

/// Arguments in, results and outcome out. It belongs to C, stays where it is until the call is
/// deleted, and is mirrored in `engine/include/weir_engine.h`.
#[repr(C)]
pub struct CallFrame {
    /// The instance's exported memory; valid from `has_memory` until the store goes.
    memory: MaybeUninit<Memory>,
    has_memory: bool,
    /// -1, or the `wasmtime_trap_code_t` behind `error`.
    trap: i32,
    error: *mut wasmtime_error_t,
    n_args: u32,
    n_results: u32,
    values: [Value; VALUES_MAX],
}

fn to_val(v: &Value) -> Val {
    match v.kind {
        WASMTIME_I32 => Val::I32(v.bits as u32 as i32),
        WASMTIME_I64 => Val::I64(v.bits as i64),
        WASMTIME_F32 => Val::F32(v.bits as u32),
        _ => Val::F64(v.bits),
    }
}

fn from_val(v: &Val) -> Result<Value> {
    let (kind, bits) = match v {
        Val::I32(x) => (WASMTIME_I32, *x as u32 as u64),
        Val::I64(x) => (WASMTIME_I64, *x as u64),
        Val::F32(x) => (WASMTIME_F32, *x as u64),
        Val::F64(x) => (WASMTIME_F64, *x),
        _ => bail!("a result that is no number"),
    };
    Ok(Value { kind, bits })
}

pub struct Call<'a>(Pin<Box<dyn Future<Output = Result<()>> + 'a>>, *mut CallFrame);

async fn run<'a>(
    entry: &'a Entry,
    mut store: WasmtimeStoreContextMut<'a>,
    frame: *mut CallFrame,
) -> Result<()> {
    let instance = entry.pre.instantiate_async(&mut store).await?;
    if let Some(at) = &entry.memory
        && let Some(Extern::Memory(m)) = instance.get_module_export(&mut store, at)
    {
        unsafe {
            (*frame).memory.write(m);
            (*frame).has_memory = true;
        }
    }
    if let Some(at) = &entry.init
        && let Some(Extern::Func(f)) = instance.get_module_export(&mut store, at)
    {
        f.call_async(&mut store, &[], &mut []).await?;
    }
    let Some(Extern::Func(f)) = instance.get_module_export(&mut store, &entry.func) else {
        bail!("the export is no function");
    };
    let (n_args, n_results) =
        unsafe { ((*frame).n_args as usize, (*frame).n_results as usize) };
    let mut args = [Val::I32(0); VALUES_MAX];
    let mut results = [Val::I32(0); VALUES_MAX];
    for i in 0..n_args {
        args[i] = to_val(unsafe { &(&(*frame).values)[i] });
    }
    f.call_async(&mut store, &args[..n_args], &mut results[..n_results]).await?;
    for i in 0..n_results {
        unsafe { (&mut (*frame).values)[i] = from_val(&results[i])? };
    }
    Ok(())
}

/// Starts nothing yet: the first poll does. `n_args` and `n_results` are at most 16.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_call_new<'a>(
    entry: &'a Entry,
    store: WasmtimeStoreContextMut<'a>,
    frame: *mut CallFrame,
) -> Box<Call<'a>> {
    Box::new(Call(Box::pin(run(entry, store, frame)), frame))
}

/// 0: the guest used up its slice, poll again; 1: done; -1: failed, see `trap` and `error` of the
/// frame, of which the caller owns the latter. Not to be polled after that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_call_poll(call: &mut Call) -> i32 {
    match call.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => 0,
        Poll::Ready(Ok(())) => 1,
        Poll::Ready(Err(e)) => {
            let frame = unsafe { &mut *call.1 };
            frame.trap = e.downcast_ref::<Trap>().map_or(-1, |t| *t as u8 as i32);
            frame.error = Box::into_raw(Box::new(wasmtime_error_t::from(e)));
            -1
        }
    }
}

/// Ends a call, finished or not. Before its store is deleted.
#[unsafe(no_mangle)]
pub extern "C" fn weir_call_delete(_call: Box<Call>) {}
