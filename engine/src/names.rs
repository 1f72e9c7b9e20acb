//! Functions that are exported and have no name get the name of their export: backtraces and
//! profiles tell them by it. In a name section of its own, behind all that there is: the compiler
//! adds up what such sections say.

use crate::splice::{leb, section};
use std::collections::{BTreeMap, HashSet};
use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload};

/// What names which function, and which have one.
fn look(wasm: &[u8]) -> wasmparser::Result<BTreeMap<u32, &str>> {
    let mut exported = BTreeMap::new();
    let mut named = HashSet::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ExportSection(s) => {
                for e in s {
                    let e = e?;
                    if e.kind == ExternalKind::Func {
                        exported.entry(e.index).or_insert(e.name);
                    }
                }
            }
            Payload::CustomSection(c) => {
                let KnownCustom::Name(names) = c.as_known() else { continue };
                for part in names {
                    let Ok(Name::Function(map)) = part else { continue };
                    named.extend(map.into_iter().flatten().map(|n| n.index));
                }
            }
            _ => {}
        }
    }
    exported.retain(|index, _| !named.contains(index));
    Ok(exported)
}

/// None: there is nothing to add, or it is no module, which the compiler is to say.
pub(crate) fn exports_named(wasm: &[u8]) -> Option<Vec<u8>> {
    let missing = look(wasm).ok().filter(|m| !m.is_empty())?;
    let (mut entries, mut body) = (Vec::new(), Vec::new());
    for (index, name) in &missing {
        leb(&mut entries, *index);
        leb(&mut entries, name.len() as u32);
        entries.extend_from_slice(name.as_bytes());
    }
    body.extend_from_slice(b"\x04name");
    section(&mut body, 1, None, missing.len() as u32, &entries);
    let mut out = wasm.to_vec();
    out.push(0);
    leb(&mut out, body.len() as u32);
    out.extend_from_slice(&body);
    Some(out)
}
