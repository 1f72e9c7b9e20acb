//! Splits memory.fill, memory.copy and memory.init into parts.
//!
//! The engine runs each of them whole, without a look at the epoch: at 4 MiB, with pages that are
//! touched for the first time, that is several milliseconds in which the loop is away. So each is
//! replaced by a call of a function, appended to the module, which does long ones part by part in a
//! wasm loop, where the epoch is checked. What is out of bounds is left to one instruction for the
//! whole, so that it traps before anything is written (memory.init: after the parts in front; a trap
//! discards the instance anyway).

use wasm_encoder::{BlockType, Function, InstructionSink};
use wasmparser::{DataKind, Operator, Parser, Payload, TypeRef, Validator};
use wasmtime_c_api::wasm_byte_vec_t;

use crate::restore::known;
use crate::splice::{leb, leb_read, section};

/// Bytes: longer ones are split. 16 pages' first touch takes some 40 µs.
const PART: i32 = 64 << 10;
const CUSTOM: u8 = 0;
const TYPE: u8 = 1;
const FUNCTION: u8 = 3;
const CODE: u8 = 10;
const NAMES_OF_FUNCTIONS: u8 = 1;

#[derive(Clone, Copy, PartialEq)]
enum Bulk {
    Fill,
    Copy,
    Init(u32),
}

impl Bulk {
    fn of(operator: &Operator) -> Option<Bulk> {
        match *operator {
            Operator::MemoryFill { .. } => Some(Bulk::Fill),
            Operator::MemoryCopy { .. } => Some(Bulk::Copy),
            Operator::MemoryInit { data_index, .. } => Some(Bulk::Init(data_index)),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Bulk::Fill => "memory.fill",
            Bulk::Copy => "memory.copy",
            Bulk::Init(_) => "memory.init",
        }
    }

    fn whole(self, i: &mut InstructionSink) {
        match self {
            Bulk::Fill => i.memory_fill(0),
            Bulk::Copy => i.memory_copy(0, 0),
            Bulk::Init(data) => i.memory_init(0, data),
        };
    }

    /// (func (param $to i32) (param $from i32, of fill the value) (param $n i32))
    fn function(self) -> Function {
        let (to, from, n) = (0, 1, 2);
        let mut f = Function::new([]);
        let i = &mut f.instructions();
        let all = |i: &mut InstructionSink| {
            i.local_get(to).local_get(from).local_get(n);
            self.whole(i);
        };
        // if n <= PART, or it ends outside: all of it
        i.local_get(n).i32_const(PART).i32_le_u();
        let ends = match self {
            Bulk::Fill => &[to][..],
            Bulk::Copy => &[to, from],
            Bulk::Init(_) => &[],
        };
        for &at in ends {
            i.local_get(at).i64_extend_i32_u().local_get(n).i64_extend_i32_u().i64_add();
            i.memory_size(0).i64_extend_i32_u().i64_const(16).i64_shl().i64_gt_u().i32_or();
        }
        i.if_(BlockType::Empty);
        all(i);
        i.return_().end();
        if self == Bulk::Copy {
            // what it would overwrite first: from the end
            i.local_get(to).local_get(from).i32_gt_u().if_(BlockType::Empty).loop_(BlockType::Empty);
            i.local_get(n).i32_const(PART).i32_sub().local_set(n);
            for at in [to, from] {
                i.local_get(at).local_get(n).i32_add();
            }
            i.i32_const(PART);
            self.whole(i);
            i.local_get(n).i32_const(PART).i32_gt_u().br_if(0).end();
            all(i);
            i.return_().end();
        }
        i.loop_(BlockType::Empty).local_get(to).local_get(from).i32_const(PART);
        self.whole(i);
        for at in [to, from].into_iter().take(if self == Bulk::Fill { 1 } else { 2 }) {
            i.local_get(at).i32_const(PART).i32_add().local_set(at);
        }
        i.local_get(n).i32_const(PART).i32_sub().local_tee(n);
        i.i32_const(PART).i32_gt_u().br_if(0).end();
        all(i);
        i.end();
        f
    }
}

/// What is appended: its functions begin at `first`.
#[derive(Default)]
struct Found {
    types: u32,
    first: u32,
    bulks: Vec<Bulk>,
}

/// Calls `each` for the bulk instructions that may be long, with their place.
fn bulks<'a>(
    body: &wasmparser::FunctionBody<'a>,
    mut each: impl FnMut(Bulk, std::ops::Range<usize>),
) -> wasmparser::Result<()> {
    let mut operators = body.get_operators_reader()?;
    let mut short = false;
    while !operators.eof() {
        let start = operators.original_position();
        let operator = operators.read()?;
        if let Some(bulk) = Bulk::of(&operator).filter(|_| !short) {
            each(bulk, start..operators.original_position());
        }
        short = matches!(operator, Operator::I32Const { value } if value as u32 <= PART as u32);
    }
    Ok(())
}

fn look(wasm: &[u8]) -> wasmparser::Result<Found> {
    let (mut found, mut long, mut bodies) = (Found::default(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(types) => {
                for group in types {
                    found.types += group?.types().len() as u32;
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    found.first += matches!(import?.ty, TypeRef::Func(_)) as u32;
                }
            }
            Payload::FunctionSection(functions) => found.first += functions.count(),
            Payload::CodeSectionEntry(body) => bodies.push(body),
            Payload::DataSection(segments) => {
                for (i, segment) in segments.into_iter().enumerate() {
                    let segment = segment?;
                    if matches!(segment.kind, DataKind::Passive) && segment.data.len() > PART as usize {
                        long.push(i as u32);
                    }
                }
            }
            _ => {}
        }
    }
    for body in &bodies {
        bulks(body, |bulk, _| {
            let may = !matches!(bulk, Bulk::Init(data) if !long.contains(&data));
            if may && !found.bulks.contains(&bulk) {
                found.bulks.push(bulk);
            }
        })?;
    }
    Ok(found)
}

/// The code section's content, with calls in the place of those instructions.
fn code(old: &[u8], start: usize, found: &Found) -> wasmparser::Result<Vec<u8>> {
    let mut out = Vec::new();
    let section = wasmparser::CodeSectionReader::new(wasmparser::BinaryReader::new(old, start))?;
    leb(&mut out, section.count());
    for body in section {
        let body = body?;
        let (mut made, mut at) = (Vec::new(), body.range().start);
        bulks(&body, |bulk, place| {
            if let Some(i) = found.bulks.iter().position(|&b| b == bulk) {
                made.extend_from_slice(&old[at - start..place.start - start]);
                made.push(0x10); // call
                leb(&mut made, found.first + i as u32);
                at = place.end;
            }
        })?;
        made.extend_from_slice(&old[at - start..body.range().end - start]);
        leb(&mut out, made.len() as u32);
        out.extend_from_slice(&made);
    }
    Ok(out)
}

/// A number of a part of the module that was not validated.
fn number(from: &mut &[u8]) -> Option<u32> {
    let end = from.iter().take(5).position(|&b| b < 0x80)? + 1;
    let n = leb_read(from, 0).0;
    *from = &from[end..];
    Some(n)
}

/// The custom section `name` with the names of what was added, for backtraces. None: it is another
/// section, or malformed, which is no error.
fn names(old: &[u8], found: &Found) -> Option<Vec<u8>> {
    let mut more = Vec::new();
    for (i, bulk) in found.bulks.iter().enumerate() {
        leb(&mut more, found.first + i as u32);
        leb(&mut more, bulk.name().len() as u32);
        more.extend_from_slice(bulk.name().as_bytes());
    }
    let mut rest = old.strip_prefix(b"\x04name")?;
    let mut out = b"\x04name".to_vec();
    while let Some((&id, after)) = rest.split_first() {
        rest = after;
        let n = number(&mut rest)? as usize;
        let content = rest.get(..n)?;
        rest = &rest[n..];
        if id == NAMES_OF_FUNCTIONS {
            number(&mut &content[..])?;
            section(&mut out, id, Some(content), found.bulks.len() as u32, &more);
        } else {
            out.push(id);
            leb(&mut out, n as u32);
            out.extend_from_slice(content);
        }
    }
    Some(out)
}

fn split(wasm: &[u8], found: &Found) -> wasmparser::Result<Vec<u8>> {
    let n = found.bulks.len() as u32;
    let (mut functions, mut bodies) = (Vec::new(), Vec::new());
    for bulk in &found.bulks {
        let body = bulk.function().into_raw_body();
        leb(&mut functions, found.types);
        leb(&mut bodies, body.len() as u32);
        bodies.extend_from_slice(&body);
    }
    let ty = [0x60, 3, 0x7f, 0x7f, 0x7f, 0]; // (func (param i32 i32 i32))
    let (mut out, mut at) = (wasm[..8].to_vec(), 8);
    while at < wasm.len() {
        let id = wasm[at];
        let (size, start) = leb_read(wasm, at + 1);
        let end = start + size as usize;
        let old = &wasm[start..end];
        match id {
            TYPE => section(&mut out, id, Some(old), 1, &ty),
            FUNCTION => section(&mut out, id, Some(old), n, &functions),
            CODE => section(&mut out, id, Some(&code(old, start, found)?), n, &bodies),
            _ => {
                let named = if id == CUSTOM { names(old, found) } else { None };
                let content = named.as_deref().unwrap_or(old);
                out.push(id);
                leb(&mut out, content.len() as u32);
                out.extend_from_slice(content);
            }
        }
        at = end;
    }
    Ok(out)
}

/// What is no valid module stays as it is: compiling it says why.
#[unsafe(no_mangle)]
pub extern "C" fn weir_bulk_split(wasm: &mut wasm_byte_vec_t) {
    if Validator::new_with_features(known()).validate_all(wasm.as_slice()).is_err() {
        return;
    }
    let made = look(wasm.as_slice())
        .and_then(|found| {
            if found.bulks.is_empty() { Ok(None) } else { split(wasm.as_slice(), &found).map(Some) }
        });
    if let Ok(Some(made)) = made {
        wasm.set_buffer(made);
    }
}
