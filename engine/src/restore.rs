//! Decides whether an instance of a module can be restored after a call instead of being made
//! anew, and marks the modules that can.
//!
//! A module can where all that its code is able to change is its one memory and its globals of
//! numbers: the worker then puts those back. The mark is exports under the reserved prefix
//! `weir:`, appended so that no index changes: the global `weir:restore`, whose value is where the
//! data ends that the memory begins with; each mutable global as
//! `weir:global:N` and the memory as `weir:memory`, where it isn't exported as `memory`.

use std::ffi::{CString, c_char};

use wasmparser::{
    ConstExpr, DataKind, ExternalKind, Operator, Parser, Payload, TypeRef, ValType, Validator,
    WasmFeatures,
};
use wasmtime_c_api::wasm_byte_vec_t;

use crate::splice::{leb, leb_read, section};

/// Their values are put back one by one: more of them, and making an instance is the cheaper way.
const GLOBALS_MAX: usize = 64;
/// The image that is kept of what a memory begins with.
const IMAGE_MAX: u64 = 16 << 20;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;

enum No {
    Because(&'static str),
    Bad(wasmparser::BinaryReaderError),
}

impl From<wasmparser::BinaryReaderError> for No {
    fn from(e: wasmparser::BinaryReaderError) -> Self {
        No::Bad(e)
    }
}

#[derive(Default)]
struct Found {
    globals: u32,
    mutable: Vec<u32>,
    memory: bool,
    memory_exported: bool,
    /// Where the last active data segment ends: beyond, memory begins with zeros.
    data_end: u64,
}

/// Everything that the rule below has been thought through for. A proposal that is not here may
/// have other ways to change an instance.
pub(crate) fn known() -> WasmFeatures {
    WasmFeatures::WASM2
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::WIDE_ARITHMETIC
}

fn look(wasm: &[u8]) -> Result<Found, No> {
    let mut found = Found::default();
    if Validator::new_with_features(known()).validate_all(wasm).is_err() {
        return Err(No::Because("it uses a proposal for which the rule is unknown"));
    }
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if !matches!(import?.ty, TypeRef::Func(_)) {
                        return Err(No::Because("it imports what is no function"));
                    }
                }
            }
            Payload::MemorySection(memories) => found.memory = memories.count() > 0,
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let ty = global?.ty;
                    if ty.mutable && matches!(ty.content_type, ValType::Ref(_)) {
                        return Err(No::Because("it has a mutable global of references"));
                    }
                    if ty.mutable {
                        found.mutable.push(found.globals);
                    }
                    found.globals += 1;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.name == "_initialize" {
                        return Err(No::Because("it is initialised in each instance"));
                    }
                    found.memory_exported |=
                        export.name == "memory" && export.kind == ExternalKind::Memory;
                }
            }
            Payload::DataSection(segments) => {
                for segment in segments {
                    let segment = segment?;
                    if let DataKind::Active { offset_expr, .. } = segment.kind {
                        let Some(at) = constant(&offset_expr) else {
                            return Err(No::Because("the place of its data is computed"));
                        };
                        let end = at as u32 as u64 + segment.data.len() as u64;
                        found.data_end = found.data_end.max(end);
                    }
                }
            }
            Payload::StartSection { .. } => {
                return Err(No::Because("it has a start function"));
            }
            Payload::CodeSectionEntry(body) => {
                let mut operators = body.get_operators_reader()?;
                while !operators.eof() {
                    match operators.read()? {
                        Operator::TableSet { .. }
                        | Operator::TableGrow { .. }
                        | Operator::TableFill { .. }
                        | Operator::TableCopy { .. }
                        | Operator::TableInit { .. }
                        | Operator::ElemDrop { .. } => {
                            return Err(No::Because("it changes a table"));
                        }
                        Operator::MemoryInit { .. } | Operator::DataDrop { .. } => {
                            return Err(No::Because("it uses a passive data segment"));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if found.data_end > IMAGE_MAX {
        return Err(No::Because("its data reaches too far"));
    }
    if found.mutable.len() > GLOBALS_MAX {
        return Err(No::Because("it has too many mutable globals"));
    }
    Ok(found)
}

fn constant(e: &ConstExpr<'_>) -> Option<i32> {
    let mut operators = e.get_operators_reader();
    match (operators.read().ok()?, operators.read().ok()?) {
        (Operator::I32Const { value }, Operator::End) => Some(value),
        _ => None,
    }
}

/// The signed form.
fn sleb(out: &mut Vec<u8>, mut n: i32) {
    while !(-64..64).contains(&n) {
        out.push(n as u8 & 0x7f | 0x80);
        n >>= 7;
    }
    out.push(n as u8 & 0x7f);
}

fn mark(wasm: &[u8], found: &Found) -> Vec<u8> {
    let mut global = vec![0x7f, 0x00, 0x41]; // (global i32 (i32.const data_end))
    sleb(&mut global, found.data_end as i32);
    global.push(0x0b);
    let (mut exports, mut n) = (Vec::new(), 0);
    let mut export = |name: &str, kind: u8, index: u32| {
        leb(&mut exports, name.len() as u32);
        exports.extend_from_slice(name.as_bytes());
        exports.push(kind);
        leb(&mut exports, index);
        n += 1;
    };
    export("weir:restore", 3, found.globals);
    for &i in &found.mutable {
        export(&format!("weir:global:{i}"), 3, i);
    }
    if found.memory && !found.memory_exported {
        export("weir:memory", 2, 0);
    }
    let (mut out, mut at) = (wasm[..8].to_vec(), 8);
    let (mut globals_done, mut exports_done) = (false, false);
    loop {
        let id = wasm.get(at).copied();
        // Custom sections (0) may stand anywhere; that of tags (13) comes before the globals.
        let after = |mine| id.is_none_or(|id| id > mine && id != 13);
        if !globals_done && after(GLOBAL) {
            section(&mut out, GLOBAL, None, 1, &global);
            globals_done = true;
        }
        if !exports_done && after(EXPORT) {
            section(&mut out, EXPORT, None, n, &exports);
            exports_done = true;
        }
        let Some(id) = id else { return out };
        let (size, start) = leb_read(wasm, at + 1);
        let end = start + size as usize;
        match id {
            GLOBAL => {
                section(&mut out, id, Some(&wasm[start..end]), 1, &global);
                globals_done = true;
            }
            EXPORT => {
                section(&mut out, id, Some(&wasm[start..end]), n, &exports);
                exports_done = true;
            }
            _ => out.extend_from_slice(&wasm[at..end]),
        }
        at = end;
    }
}

fn text(s: &str) -> *mut c_char {
    CString::new(s.replace('\0', " ")).unwrap_or_default().into_raw()
}

/// Marks `wasm` in place where its instances can be restored, and returns NULL; else why they
/// can't. What is no valid module stays as it is.
#[unsafe(no_mangle)]
pub extern "C" fn weir_restore_mark(wasm: &mut wasm_byte_vec_t) -> *mut c_char {
    match look(wasm.as_slice()) {
        Ok(found) => {
            let marked = mark(wasm.as_slice(), &found);
            wasm.set_buffer(marked);
            std::ptr::null_mut()
        }
        Err(No::Because(why)) => text(why),
        Err(No::Bad(e)) => text(e.message()),
    }
}
