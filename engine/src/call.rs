//! Calls of exports: in a fresh instance, or in one that was kept and put back to its beginning.

use std::ffi::{CStr, c_char};
use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime_c_api::wasmtime::*;
use wasmtime_c_api::*;

type Data = WasmtimeStoreData;

/// What calls need to know of a module that is ready to be instantiated.
pub struct Plan {
    pre: InstancePre<Data>,
    init: Option<ModuleExport>,
    /// The memory that pointers of host calls lead into.
    memory: Option<ModuleExport>,
    /// The module's one memory, exported as that or under a name of the compiler's.
    whole: Option<ModuleExport>,
    /// Mutable globals, by the names that the compiler gave them.
    globals: Vec<ModuleExport>,
    /// Globals that hold addresses of generators' states.
    seeds: Vec<ModuleExport>,
    /// Holds where the data ends that the memory begins with. None: not to be restored.
    restore: Option<ModuleExport>,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_plan_new(pre: *const wasmtime_instance_pre_t) -> Box<Arc<Plan>> {
    let pre = unsafe { &*(pre as *const InstancePre<Data>) };
    let module = pre.module();
    let memory = |name: &str| match module.get_export(name) {
        Some(ExternType::Memory(_)) => module.get_export_index(name),
        _ => None,
    };
    let globals = |prefix: &str| {
        let of = |x: &ExportType<'_>| x.name().starts_with(prefix) && x.ty().global().is_some();
        let named = module.exports().filter(of);
        named.filter_map(|x| module.get_export_index(x.name())).collect::<Vec<_>>()
    };
    Box::new(Arc::new(Plan {
        init: match module.get_export("_initialize") {
            Some(ExternType::Func(_)) => module.get_export_index("_initialize"),
            _ => None,
        },
        memory: memory("memory"),
        whole: memory("memory").or(memory("weir:memory")),
        globals: globals("weir:global:"),
        seeds: globals("weir:chacha8:"),
        restore: globals("weir:restore").pop(),
        pre: pre.clone(),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn weir_plan_delete(_plan: Box<Arc<Plan>>) {}

/// Whether the compiler found that memory and globals are all that an instance can change.
#[unsafe(no_mangle)]
pub extern "C" fn weir_plan_restorable(plan: &Arc<Plan>) -> bool {
    plan.restore.is_some()
}

/// The signature of an exported function whose parameters and results are at most 16 numbers each;
/// false where it is none. (The C API's own types abort on a v128.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_plan_signature(
    plan: &Arc<Plan>,
    name: *const c_char,
    args: &mut [u8; VALUES_MAX],
    n_args: &mut u8,
    results: &mut [u8; VALUES_MAX],
    n_results: &mut u8,
) -> bool {
    let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default();
    let Some(ExternType::Func(f)) = plan.pre.module().get_export(name) else {
        return false;
    };
    put_kinds(f.params(), args, n_args) && put_kinds(f.results(), results, n_results)
}

fn put_kinds(
    types: impl ExactSizeIterator<Item = ValType>,
    kinds: &mut [u8; VALUES_MAX],
    n: &mut u8,
) -> bool {
    if types.len() > VALUES_MAX {
        return false;
    }
    *n = types.len() as u8;
    types.zip(kinds).all(|(t, kind)| {
        *kind = match t {
            ValType::I32 => WASMTIME_I32,
            ValType::I64 => WASMTIME_I64,
            ValType::F32 => WASMTIME_F32,
            ValType::F64 => WASMTIME_F64,
            _ => return false,
        };
        true
    })
}

/// One exported function of a module. None: an instance is made, and nothing called but its
/// initialisation.
pub struct Entry {
    plan: Arc<Plan>,
    func: Option<ModuleExport>,
}

/// NULL where the module exports no function of that name. A name of NULL is that of no function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_entry_new(
    plan: &Arc<Plan>,
    name: *const c_char,
) -> Option<Box<Entry>> {
    if name.is_null() {
        return Some(Box::new(Entry { plan: plan.clone(), func: None }));
    }
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    let module = plan.pre.module();
    match module.get_export(name) {
        Some(ExternType::Func(_)) => {
            let func = Some(module.get_export_index(name)?);
            Some(Box::new(Entry { plan: plan.clone(), func }))
        }
        _ => None,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn weir_entry_delete(_entry: Box<Entry>) {}

/// An instance, for as long as its store is there.
pub struct Kept {
    instance: Instance,
    memory: Option<Memory>,
    whole: Option<Memory>,
    /// Mutable globals and what they begin with.
    globals: Vec<(Global, Val)>,
    seeds: Vec<u32>,
    data_end: usize,
    /// No call was made since it was made or restored.
    pristine: bool,
}

#[unsafe(no_mangle)]
pub extern "C" fn weir_kept_delete(_kept: Box<Kept>) {}

/// Puts the globals back; the memory is the caller's. false: a global did not take its value.
#[unsafe(no_mangle)]
pub extern "C" fn weir_kept_restore(
    kept: &mut Kept,
    mut store: WasmtimeStoreContextMut<'_>,
) -> bool {
    kept.pristine = kept.globals.iter().all(|(g, first)| g.set(&mut store, *first).is_ok());
    kept.pristine
}

/// The mutable globals' present values as 16 bytes each, at most `cap` of them; their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_kept_globals(
    kept: &Kept,
    mut store: WasmtimeStoreContextMut<'_>,
    out: *mut [u64; 2],
    cap: usize,
) -> usize {
    for (i, (g, _)) in kept.globals.iter().take(cap).enumerate() {
        let bits: u128 = match g.get(&mut store) {
            Val::I32(x) => x as u32 as u128,
            Val::I64(x) => x as u64 as u128,
            Val::F32(x) => x as u128,
            Val::F64(x) => x as u128,
            Val::V128(x) => x.as_u128(),
            _ => 0,
        };
        unsafe { out.add(i).write([bits as u64, (bits >> 64) as u64]) };
    }
    kept.globals.len()
}

pub const VALUES_MAX: usize = 16;

/// A number of WebAssembly: `kind` is a `wasmtime_valkind_t` of I32, I64, F32 or F64.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Value {
    kind: u8,
    bits: u64,
}

type Running = Pin<Box<dyn Future<Output = Result<()>>>>;

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
    /// The instance to use; NULL: one is made, and is the caller's to delete whatever happens.
    kept: *mut Kept,
    /// Called when the instance is as it began, before the export is.
    prepare: Option<extern "C" fn(*mut CallFrame)>,
    /// The instance's one memory, at `prepare` and after the call; NULL: it has none.
    base: *mut u8,
    size: usize,
    seeds: *const u32,
    n_seeds: usize,
    /// At `prepare`: beyond, the memory of a restorable module holds zeros.
    data_end: usize,
    /// Between weir_call_new and weir_call_delete.
    running: MaybeUninit<Running>,
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

async fn make(plan: &Plan, mut store: WasmtimeStoreContextMut<'_>) -> Result<Kept> {
    let instance = plan.pre.instantiate_async(&mut store).await?;
    let mut get = |at: &ModuleExport| instance.get_module_export(&mut store, at);
    let memory = plan.memory.as_ref().and_then(&mut get).and_then(Extern::into_memory);
    let whole = plan.whole.as_ref().and_then(&mut get).and_then(Extern::into_memory);
    let all = |of: &[ModuleExport], get: &mut dyn FnMut(&ModuleExport) -> Option<Extern>| {
        of.iter().filter_map(|at| get(at)?.into_global()).collect::<Vec<_>>()
    };
    let globals = all(&plan.globals, &mut get);
    let seeds = all(&plan.seeds, &mut get);
    let end = plan.restore.as_ref().and_then(&mut get).and_then(Extern::into_global);
    Ok(Kept {
        instance,
        memory,
        whole,
        globals: globals.into_iter().map(|g| (g, g.get(&mut store))).collect(),
        seeds: seeds.iter().filter_map(|g| g.get(&mut store).i32()).map(|a| a as u32).collect(),
        data_end: end.and_then(|g| g.get(&mut store).i32()).unwrap_or(0) as u32 as usize,
        pristine: true,
    })
}

unsafe fn measure(frame: *mut CallFrame, whole: Option<Memory>, store: &impl AsContext) {
    unsafe {
        (*frame).base = whole.map_or(std::ptr::null_mut(), |m| m.data_ptr(store));
        (*frame).size = whole.map_or(0, |m| m.data_size(store));
    }
}

/// `frame` is also written by C meanwhile: no reference to it lives across an await.
async fn run(
    entry: &Entry,
    mut store: WasmtimeStoreContextMut<'_>,
    frame: *mut CallFrame,
) -> Result<()> {
    let plan = &*entry.plan;
    let made = unsafe { (*frame).kept.is_null() };
    if made {
        let kept = make(plan, store.as_context_mut()).await?;
        unsafe { (*frame).kept = Box::into_raw(Box::new(kept)) };
    }
    let kept = unsafe { (*frame).kept };
    let (instance, whole) = unsafe { ((*kept).instance, (*kept).whole) };
    if let Some(m) = unsafe { (*kept).memory } {
        unsafe {
            (*frame).memory.write(m);
            (*frame).has_memory = true;
        }
    }
    if made
        && let Some(at) = &plan.init
        && let Some(Extern::Func(f)) = instance.get_module_export(&mut store, at)
    {
        f.call_async(&mut store, &[], &mut []).await?;
    }
    if unsafe { std::mem::replace(&mut (*kept).pristine, false) } {
        unsafe { measure(frame, whole, &store) };
        unsafe {
            (*frame).seeds = (*kept).seeds.as_ptr();
            (*frame).n_seeds = (*kept).seeds.len();
            (*frame).data_end = (*kept).data_end;
            if let Some(prepare) = (*frame).prepare {
                prepare(frame);
            }
        }
    }
    let Some(func) = &entry.func else {
        return Ok(());
    };
    let Some(Extern::Func(f)) = instance.get_module_export(&mut store, func) else {
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
    unsafe { measure(frame, whole, &store) };
    Ok(())
}

/// Starts nothing yet: the first poll does. `n_args` and `n_results` are at most 16.
///
/// The entry, the store and the frame stay where they are, and the store is nobody else's, until
/// weir_call_delete: the lifetimes that are taken off here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_call_new<'a>(
    entry: &'a Entry,
    store: WasmtimeStoreContextMut<'a>,
    frame: *mut CallFrame,
) {
    let running: Pin<Box<dyn Future<Output = Result<()>> + 'a>> =
        Box::pin(run(entry, store, frame));
    unsafe { (*frame).running.write(std::mem::transmute::<_, Running>(running)) };
}

/// 0: the guest used up its slice, poll again; 1: done; -1: failed, see `trap` and `error` of the
/// frame, of which the caller owns the latter. Not to be polled after that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_call_poll(frame: *mut CallFrame) -> i32 {
    let running = unsafe { &mut *(*frame).running.as_mut_ptr() };
    match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => 0,
        Poll::Ready(Ok(())) => 1,
        Poll::Ready(Err(e)) => {
            unsafe {
                (*frame).trap = e.downcast_ref::<Trap>().map_or(-1, |t| *t as u8 as i32);
                (*frame).error = Box::into_raw(Box::new(wasmtime_error_t::from(e)));
            }
            -1
        }
    }
}

/// Ends a call, finished or not. Before its store is deleted or used for another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_call_delete(frame: *mut CallFrame) {
    unsafe { (*frame).running.assume_init_drop() };
}
