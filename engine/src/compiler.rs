//! What only `weirc` links: the engine that compiles, and the C side of the stages before it.
//!
//! wat -> wasm (Wasmtime's C API), check and snapshot (snapshot.rs), compile (Wasmtime's C API).
//! A further transformation of wasm goes between the last two, as a function of its own here.

use crate::snapshot::{self, Mode, Outcome};
use crate::*;
use std::ffi::CStr;

unsafe fn text<'a>(s: *const c_char) -> Option<&'a str> {
    if s.is_null() { None } else { unsafe { CStr::from_ptr(s) }.to_str().ok() }
}

/// An engine that only compiles, with the worker's settings: for `target`, or where that is NULL
/// for this machine, with all that its CPU can do. An explicit target means its baseline.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_compiler_new(
    target: *const c_char,
    error: *mut *mut c_char,
) -> *mut wasm_engine_t {
    engine_out(settings(unsafe { text(target) }).and_then(|c| Engine::new(&c)), error)
}

/// Compiles for the engine's target, which may be another machine than this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_compile(
    engine: &wasm_engine_t,
    wasm: &wasm_byte_vec_t,
    out: &mut wasm_byte_vec_t,
    error: *mut *mut c_char,
) -> bool {
    let shape = unsafe { &*(engine as *const wasm_engine_t as *const EngineShape) };
    let named = crate::names::exports_named(wasm.as_slice());
    match shape.engine.precompile_module(named.as_deref().unwrap_or(wasm.as_slice())) {
        Ok(code) => out.set_buffer(code),
        Err(e) => put_error(&e, error),
    }
    unsafe { (*error).is_null() }
}

/// Mirrored in `engine/include/weir_compiler.h`.
#[repr(C)]
pub struct SnapshotOptions {
    mode: u32,
    n_env: u32,
    memory_max: usize,
    run_max_ms: u64,
    env: *const *const c_char,
}

/// -1: refused, `*said` is why. 0: as it was. 1: `out` is the module after its initialisation.
/// `*said`, where not NULL, is for the user to see.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weir_snapshot(
    wasm: &wasm_byte_vec_t,
    options: &SnapshotOptions,
    out: &mut wasm_byte_vec_t,
    said: *mut *mut c_char,
) -> i32 {
    let env = (0..options.n_env as usize)
        .filter_map(|i| unsafe { text(*options.env.add(i)) })
        .map(str::to_owned)
        .collect();
    let limits = snapshot::Limits {
        memory: options.memory_max,
        run: std::time::Duration::from_millis(options.run_max_ms),
        env,
    };
    let mode = match options.mode {
        0 => Mode::Never,
        1 => Mode::Auto,
        _ => Mode::Always,
    };
    let put = |text: String| unsafe {
        *said = CString::new(text.replace('\0', " ")).unwrap_or_default().into_raw();
    };
    match snapshot::snapshot(wasm.as_slice(), mode, &limits) {
        Err(e) => {
            put(format!("{e:#}"));
            -1
        }
        Ok(Outcome::AsItWas(None)) => 0,
        Ok(Outcome::AsItWas(Some(note))) => {
            put(note);
            0
        }
        Ok(Outcome::Snapshot(made, note)) => {
            out.set_buffer(made);
            if let Some(note) = note {
                put(note);
            }
            1
        }
    }
}
