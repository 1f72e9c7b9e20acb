//! A module as its initialisation leaves it: `_initialize` (and then `wizer_initialize`) run once
//! when it is compiled, not in each instance.
//!
//! Init runs twice, with other randomness and another time of day. What differs then would repeat
//! in every instance, so it must be nothing, or lie in generators of Go's runtime, which the host
//! seeds anew (`weir:chacha8:N` is the address of one). Such a generator is recognised for
//! certain: its buffer is what its seed and counter make. The monotonic clock is the same in both
//! runs: its origin means nothing to a program.

use std::borrow::Cow;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasmparser::{Operator, Parser, Payload};
use wasmtime_c_api::wasmtime::*;
use wasmtime_wizer::{InstanceState, SnapshotVal, Wizer};

/// Names that only this compiler gives.
const RESERVED: &str = "weir:";
const TICK: Duration = Duration::from_millis(10);
/// Of what init writes to its standard error, this much is shown if it fails.
const SAID_MAX: usize = 2048;
const SHOWN_MAX: usize = 4;

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Never,
    Auto,
    Always,
}

pub struct Limits {
    pub memory: usize,
    pub run: Duration,
    pub env: Vec<String>,
}

pub enum Outcome {
    AsItWas(Option<String>),
    Snapshot(Vec<u8>, Option<String>),
}

#[derive(Default)]
struct Shape {
    initialize: bool,
    wizer_initialize: bool,
    start: bool,
    /// An instruction names a data segment, so that they must keep their numbers.
    names_segments: bool,
    globals: u32,
}

fn shape(wasm: &[u8]) -> Result<Shape> {
    let mut s = Shape::default();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if export.name.starts_with(RESERVED) {
                        bail!("export \"{}\": names that begin with {RESERVED} are weir's own: \
                               give it another", export.name);
                    }
                    let func = export.kind == wasmparser::ExternalKind::Func;
                    s.initialize |= func && export.name == "_initialize";
                    s.wizer_initialize |= func && export.name == "wizer_initialize";
                }
            }
            Payload::StartSection { .. } => s.start = true,
            Payload::GlobalSection(globals) => s.globals = globals.count(),
            Payload::CodeSectionEntry(body) => {
                for op in body.get_operators_reader()? {
                    s.names_segments |=
                        matches!(op?, Operator::MemoryInit { .. } | Operator::DataDrop { .. });
                }
            }
            _ => {}
        }
    }
    Ok(s)
}

/// What one run of init may see and leaves behind.
struct Run {
    random: u64,
    time_of_day: u64,
    monotonic: u64,
    limits: StoreLimits,
    run_max: Duration,
    env: Vec<u8>,
    env_count: u32,
    said: Vec<u8>,
    /// The call that makes a snapshot impossible.
    unfit: Option<String>,
}

fn memory(c: &mut Caller<'_, Run>) -> Result<Memory> {
    match c.get_export("memory") {
        Some(Extern::Memory(m)) => Ok(m),
        _ => bail!("the module exports no \"memory\""),
    }
}

fn put(c: &mut Caller<'_, Run>, at: u32, bytes: &[u8]) -> Result<()> {
    memory(c)?.write(c, at as usize, bytes).map_err(|_| format_err!("a pointer outside memory"))
}

fn get<const N: usize>(c: &mut Caller<'_, Run>, at: u32) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let m = memory(c)?;
    m.read(c, at as usize, &mut bytes).map_err(|_| format_err!("a pointer outside memory"))?;
    Ok(bytes)
}

fn word(c: &mut Caller<'_, Run>, at: u32) -> Result<u32> {
    Ok(u32::from_le_bytes(get(c, at)?))
}

fn random_get(mut c: Caller<'_, Run>, at: u32, n: u32) -> Result<i32> {
    let m = memory(&mut c)?;
    let (data, run) = m.data_and_store_mut(&mut c);
    let Some(out) = data.get_mut(at as usize..).and_then(|d| d.get_mut(..n as usize)) else {
        bail!("a pointer outside memory");
    };
    for byte in out {
        run.random = run.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *byte = (run.random >> 56) as u8;
    }
    Ok(0)
}

fn clock_time_get(mut c: Caller<'_, Run>, id: u32, _precision: u64, at: u32) -> Result<i32> {
    let run = c.data_mut();
    run.monotonic += 1000;
    let now = run.monotonic + if id == 0 { run.time_of_day } else { 0 };
    put(&mut c, at, &now.to_le_bytes())?;
    Ok(0)
}

/// All clocks have rung; nothing else is ever ready.
fn poll_oneoff(mut c: Caller<'_, Run>, subs: u32, out: u32, n: u32, got: u32) -> Result<i32> {
    let mut events = 0u32;
    for i in 0..n {
        let sub: [u8; 48] = get(&mut c, subs.wrapping_add(i.wrapping_mul(48)))?;
        if sub[8] != 0 {
            continue;
        }
        let mut event = [0u8; 32];
        event[..8].copy_from_slice(&sub[..8]);
        put(&mut c, out.wrapping_add(events * 32), &event)?;
        events += 1;
    }
    put(&mut c, got, &events.to_le_bytes())?;
    Ok(0)
}

fn fd_write(mut c: Caller<'_, Run>, fd: u32, parts: u32, n: u32, out: u32) -> Result<i32> {
    if fd != 1 && fd != 2 {
        return Ok(8);
    }
    let mut total = 0u32;
    for i in 0..n {
        let at = parts.wrapping_add(i.wrapping_mul(8));
        let (from, len) = (word(&mut c, at)?, word(&mut c, at.wrapping_add(4))?);
        let m = memory(&mut c)?;
        let (data, run) = m.data_and_store_mut(&mut c);
        let Some(text) = data.get(from as usize..).and_then(|d| d.get(..len as usize)) else {
            bail!("a pointer outside memory");
        };
        let room = SAID_MAX - run.said.len();
        run.said.extend_from_slice(&text[..text.len().min(room)]);
        total = total.wrapping_add(len);
    }
    put(&mut c, out, &total.to_le_bytes())?;
    Ok(0)
}

fn environ_sizes_get(mut c: Caller<'_, Run>, count: u32, size: u32) -> Result<i32> {
    let (n, bytes) = (c.data().env_count, c.data().env.len() as u32);
    put(&mut c, count, &n.to_le_bytes())?;
    put(&mut c, size, &bytes.to_le_bytes())?;
    Ok(0)
}

fn environ_get(mut c: Caller<'_, Run>, list: u32, texts: u32) -> Result<i32> {
    let env = c.data().env.clone();
    put(&mut c, texts, &env)?;
    let mut at = 0;
    for (i, one) in env.split_inclusive(|b| *b == 0).enumerate() {
        put(&mut c, list.wrapping_add(4 * i as u32), &texts.wrapping_add(at).to_le_bytes())?;
        at += one.len() as u32;
    }
    Ok(0)
}

fn nothing_sizes_get(mut c: Caller<'_, Run>, count: u32, size: u32) -> Result<i32> {
    put(&mut c, count, &[0; 4])?;
    put(&mut c, size, &[0; 4])?;
    Ok(0)
}

/// What a module may call while it initialises. Imports beside these are there too, so that it
/// can be instantiated: of WASI they say that they can't, of others a call ends the attempt.
fn linker(engine: &Engine, module: &Module) -> Result<Linker<Run>> {
    const WASI: &str = "wasi_snapshot_preview1";
    let mut l: Linker<Run> = Linker::new(engine);
    l.func_wrap(WASI, "random_get", random_get)?;
    l.func_wrap(WASI, "clock_time_get", clock_time_get)?;
    l.func_wrap(WASI, "poll_oneoff", poll_oneoff)?;
    l.func_wrap(WASI, "fd_write", fd_write)?;
    l.func_wrap(WASI, "environ_sizes_get", environ_sizes_get)?;
    l.func_wrap(WASI, "environ_get", environ_get)?;
    l.func_wrap(WASI, "args_sizes_get", nothing_sizes_get)?;
    l.func_wrap(WASI, "args_get", |_: i32, _: i32| 0i32)?;
    l.func_wrap(WASI, "sched_yield", || 0i32)?;
    l.func_wrap(WASI, "proc_exit", |code: i32| -> Result<()> { bail!("it exits with {code}") })?;
    for import in module.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let (from, name) = (import.module().to_owned(), import.name().to_owned());
        let known = ["random_get", "clock_time_get", "poll_oneoff", "fd_write", "environ_sizes_get",
                     "environ_get", "args_sizes_get", "args_get", "sched_yield", "proc_exit"];
        if from == WASI && known.contains(&name.as_str()) {
            continue;
        }
        l.allow_shadowing(true);
        l.func_new(&from.clone(), &name.clone(), ty, move |mut c, _, results| {
            if from == "env" && name == "abort" {
                bail!("it calls env.abort");
            }
            if from != WASI {
                c.data_mut().unfit = Some(format!("{from}.{name}"));
                bail!("it calls {from}.{name}");
            }
            if let Some(errno) = results.first_mut() {
                *errno = Val::I32(if name.starts_with("fd_") { 8 } else { 52 }); // EBADF, ENOSYS
            }
            Ok(())
        })?;
    }
    Ok(l)
}

/// Raises the engine's epoch until it is dropped.
struct Ticker(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Ticker {
    fn new(engine: &Engine) -> Result<Ticker> {
        let (end, engine) = (Arc::new(AtomicBool::new(false)), engine.clone());
        let seen = end.clone();
        let thread = std::thread::Builder::new().spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(Ticker(end, Some(thread)))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(|t| t.join());
    }
}

/// CPU time of this thread: init's own running time, as all else here takes none beside it.
fn running_time() -> Duration {
    #[repr(C)]
    struct Timespec(i64, i64);
    unsafe extern "C" {
        fn clock_gettime(id: i32, out: *mut Timespec) -> i32;
    }
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    let mut t = Timespec(0, 0);
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.0 as u64, t.1 as u32)
}

struct State {
    store: Store<Run>,
    instance: Instance,
}

impl InstanceState for State {
    async fn global_get(&mut self, name: &str, _: wasmparser::ValType) -> SnapshotVal {
        let g = self.instance.get_global(&mut self.store, name).expect("instrumented");
        match g.get(&mut self.store) {
            Val::I32(x) => SnapshotVal::I32(x),
            Val::I64(x) => SnapshotVal::I64(x),
            Val::F32(x) => SnapshotVal::F32(x),
            Val::F64(x) => SnapshotVal::F64(x),
            Val::V128(x) => SnapshotVal::V128(x.as_u128()),
            _ => unreachable!("Wizer refuses mutable references"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let m = self.instance.get_memory(&mut self.store, name).expect("instrumented");
        contents(m.data(&self.store));
    }
}

impl State {
    /// Of the one memory that a module may have; empty where it has none.
    fn memory(&mut self) -> &[u8] {
        match self.instance.get_memory(&mut self.store, "__wizer_memory_0") {
            Some(m) => m.data(&self.store),
            None => &[],
        }
    }

    fn globals(&mut self) -> Vec<(String, String)> {
        let names: Vec<String> = (self.instance.exports(&mut self.store))
            .filter(|e| e.name().starts_with("__wizer_global_"))
            .map(|e| e.name().to_owned())
            .collect();
        let mut values = Vec::new();
        for name in names {
            let g = self.instance.get_global(&mut self.store, &name).expect("listed");
            values.push((name, format!("{:?}", g.get(&mut self.store))));
        }
        values
    }
}

enum Ran {
    State(State),
    Unfit(String),
}

fn failed(e: Error, run: &Run, stage: &str) -> Error {
    let names = e.downcast_ref::<WasmBacktrace>().map_or(String::new(), |b| {
        let names: Vec<_> = b.frames().iter().filter_map(|f| f.func_name()).take(8).collect();
        if names.is_empty() { String::new() } else { format!(" (in {})", names.join(", by ")) }
    });
    let said = String::from_utf8_lossy(&run.said);
    let said = if said.is_empty() { String::new() } else { format!("; it wrote: {}", said.trim()) };
    format_err!("{stage} fails when the module is compiled: {}{names}{said}: mend it, or say \
                 --no-snapshot (snapshot: no)", e.root_cause())
}

fn run(engine: &Engine, module: &Module, limits: &Limits, twice: bool) -> Result<Ran> {
    let mut env = Vec::new();
    for text in &limits.env {
        env.extend_from_slice(text.as_bytes());
        env.push(0);
    }
    let mut store = Store::new(engine, Run {
        random: if twice { 0x9e3779b97f4a7c15 } else { 0x1111111111111111 },
        time_of_day: if twice { 1_811_223_344_123_456_789 } else { 1_700_000_000_000_000_000 },
        monotonic: 1_000_000,
        limits: StoreLimitsBuilder::new().memory_size(limits.memory).build(),
        run_max: running_time() + limits.run,
        env,
        env_count: limits.env.len() as u32,
        said: Vec::new(),
        unfit: None,
    });
    store.limiter(|run| &mut run.limits);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|c| {
        if running_time() >= c.data().run_max {
            bail!("it runs too long (endless loop?)");
        }
        Ok(UpdateDeadline::Continue(1))
    });
    let made = linker(engine, module)?.instantiate(&mut store, module);
    let end = |e: Error, store: &Store<Run>, stage: &str| match &store.data().unfit {
        Some(call) => Ok(Ran::Unfit(call.clone())),
        None => Err(failed(e, store.data(), stage)),
    };
    let instance = match made {
        Ok(i) => i,
        Err(e) => return end(e, &store, "the start function"),
    };
    for name in ["_initialize", "wizer_initialize"] {
        let Some(f) = instance.get_func(&mut store, name) else { continue };
        let f = f.typed::<(), ()>(&store).map_err(|_| {
            format_err!("{name} takes or returns something: it must do neither")
        })?;
        if let Err(e) = f.call(&mut store, ()) {
            return end(e, &store, name);
        }
    }
    Ok(Ran::State(State { store, instance }))
}

/// The words of a block of Go's internal/chacha8rand: four blocks of ChaCha8 side by side, where
/// only the key is added at the end.
fn chacha8_block(seed: &[u8], counter: u32) -> [u8; 256] {
    let mut out = [0u8; 256];
    let key = |i: usize| u32::from_le_bytes(seed[4 * i..4 * i + 4].try_into().expect("4 bytes"));
    for lane in 0..4 {
        let mut b = [0u32; 16];
        b[..4].copy_from_slice(&[0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
        for i in 0..8 {
            b[4 + i] = key(i);
        }
        b[12] = counter + lane as u32;
        let mut quarter = |w: usize, x: usize, y: usize, z: usize| {
            b[w] = b[w].wrapping_add(b[x]);
            b[z] = (b[z] ^ b[w]).rotate_left(16);
            b[y] = b[y].wrapping_add(b[z]);
            b[x] = (b[x] ^ b[y]).rotate_left(12);
            b[w] = b[w].wrapping_add(b[x]);
            b[z] = (b[z] ^ b[w]).rotate_left(8);
            b[y] = b[y].wrapping_add(b[z]);
            b[x] = (b[x] ^ b[y]).rotate_left(7);
        };
        for _ in 0..4 {
            quarter(0, 4, 8, 12);
            quarter(1, 5, 9, 13);
            quarter(2, 6, 10, 14);
            quarter(3, 7, 11, 15);
            quarter(0, 5, 10, 15);
            quarter(1, 6, 11, 12);
            quarter(2, 7, 8, 13);
            quarter(3, 4, 9, 14);
        }
        for (k, word) in b.iter().enumerate() {
            let word = if (4..12).contains(&k) { word.wrapping_add(key(k - 4)) } else { *word };
            out[16 * k + 4 * lane..16 * k + 4 * lane + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    out
}

/// 256 bytes of buffer, 32 of seed, u32 i, n, c.
const GENERATOR: usize = 300;

fn is_generator(memory: &[u8], at: usize) -> bool {
    let Some(s) = memory.get(at..at + GENERATOR) else { return false };
    let field = |i: usize| u32::from_le_bytes(s[i..i + 4].try_into().expect("4 bytes"));
    let (i, n, c) = (field(288), field(292), field(296));
    matches!(n, 28 | 32) && i <= n && matches!(c, 0 | 4 | 8 | 12)
        && chacha8_block(&s[256..288], c)[..] == s[..256]
}

struct Difference {
    generators: Vec<usize>,
    /// Bytes that differ elsewhere, those with short gaps between as one.
    ranges: Vec<Range<usize>>,
    bytes: usize,
}

fn difference(x: &[u8], y: &[u8]) -> Difference {
    let mut d = Difference { generators: vec![], ranges: vec![], bytes: 0 };
    let (mut at, end) = (0, x.len().min(y.len()));
    while at < end {
        if at % 4096 == 0 && at + 4096 <= end && x[at..at + 4096] == y[at..at + 4096] {
            at += 4096;
            continue;
        }
        if x[at] == y[at] {
            at += 1;
            continue;
        }
        let first = (at + 1).saturating_sub(GENERATOR).next_multiple_of(8);
        let found = (first..=at).step_by(8).find(|&a| is_generator(x, a) && is_generator(y, a));
        if let Some(a) = found {
            d.generators.push(a);
            at = a + GENERATOR;
            continue;
        }
        d.bytes += 1;
        match d.ranges.last_mut() {
            Some(r) if at - r.end < 16 => r.end = at + 1,
            _ => d.ranges.push(at..at + 1),
        }
        at += 1;
    }
    d
}

/// What would be the same in each instance, though it differed between two runs.
fn repeats(a: &mut State, b: &mut State) -> (Vec<usize>, Option<String>) {
    let (x, y) = (a.memory().to_vec(), b.memory().to_vec());
    let d = difference(&x, &y);
    let mut parts = Vec::new();
    if x.len() != y.len() {
        parts.push(format!("the memory's size ({} or {} bytes)", x.len(), y.len()));
    }
    if d.bytes > 0 {
        let places = d.ranges.len();
        let shown: Vec<_> = d.ranges.iter().take(SHOWN_MAX)
            .map(|r| format!("{:#x}-{:#x}", r.start, r.end - 1)).collect();
        let more = if places > SHOWN_MAX { ", ..." } else { "" };
        parts.push(format!("{} bytes of memory, {places} ranges ({}{more})", d.bytes,
                           shown.join(", ")));
    }
    for ((name, v), (_, w)) in a.globals().iter().zip(b.globals().iter()) {
        if v != w {
            parts.push(format!("global {}", name.trim_start_matches("__wizer_global_")));
        }
    }
    (d.generators, if parts.is_empty() { None } else { Some(parts.join(", ")) })
}

/// Wizer's result without the segments that nothing can name (its empty passive ones cost each
/// instance 12 bytes), with the reserved exports.
fn finish(wasm: &[u8], generators: &[usize]) -> Result<Vec<u8>> {
    let s = shape(wasm)?;
    let mut constants = vec![("weir:snapshot".to_owned(), 1)];
    for (i, at) in generators.iter().enumerate() {
        constants.push((format!("weir:chacha8:{i}"), *at as u32 as i32));
    }
    let add_globals = |section: &mut wasm_encoder::GlobalSection| {
        let ty = wasm_encoder::GlobalType {
            val_type: wasm_encoder::ValType::I32, mutable: false, shared: false,
        };
        for (_, value) in &constants {
            section.global(ty, &wasm_encoder::ConstExpr::i32_const(*value));
        }
    };
    let mut out = wasm_encoder::Module::new();
    let mut globals_done = false;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let raw = payload.as_section();
        match payload {
            Payload::GlobalSection(reader) => {
                let mut section = wasm_encoder::GlobalSection::new();
                RoundtripReencoder.parse_global_section(&mut section, reader)?;
                add_globals(&mut section);
                out.section(&section);
                globals_done = true;
            }
            Payload::ExportSection(reader) => {
                if !globals_done {
                    let mut section = wasm_encoder::GlobalSection::new();
                    add_globals(&mut section);
                    out.section(&section);
                }
                let mut section = wasm_encoder::ExportSection::new();
                RoundtripReencoder.parse_export_section(&mut section, reader)?;
                for (i, (name, _)) in constants.iter().enumerate() {
                    let index = s.globals + i as u32; // Wizer takes no module that imports one
                    section.export(name, wasm_encoder::ExportKind::Global, index);
                }
                out.section(&section);
            }
            Payload::DataCountSection { .. } if !s.names_segments => {}
            Payload::DataSection(reader) if !s.names_segments => {
                let mut section = wasm_encoder::DataSection::new();
                for data in reader {
                    let data = data?;
                    if !matches!(data.kind, wasmparser::DataKind::Passive) {
                        RoundtripReencoder.parse_data(&mut section, data)?;
                    }
                }
                out.section(&section);
            }
            _ => {
                if let Some((id, range)) = raw {
                    out.section(&wasm_encoder::RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    Ok(out.finish())
}

/// Nothing that is polled here ever waits.
fn at_once<F: Future>(f: F) -> Result<F::Output> {
    match pin!(f).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(r) => Ok(r),
        Poll::Pending => bail!("a snapshot waits"),
    }
}

/// The module as its initialisation leaves it, where that is allowed and wanted. An error: it is
/// no valid module, it uses reserved names, or its initialisation fails.
pub fn snapshot(wasm: &[u8], mode: Mode, limits: &Limits) -> Result<Outcome> {
    let mut config = crate::settings(None)?;
    config.cranelift_opt_level(OptLevel::None); // this code runs twice
    let engine = Engine::new(&config)?;
    Module::validate(&engine, wasm)?;
    let s = shape(wasm)?;
    let wanted = s.initialize || s.wizer_initialize || (mode == Mode::Always && s.start);
    if mode == Mode::Never || !wanted {
        return Ok(Outcome::AsItWas(None));
    }
    let unfit = |why: String| {
        if mode == Mode::Always {
            bail!("no snapshot can be made of it: {why}: take --snapshot (snapshot: yes) away");
        }
        Ok(Outcome::AsItWas(Some(format!("no snapshot, it initialises in each instance: {why}"))))
    };
    let mut wizer = Wizer::new();
    wizer.init_func("wizer_initialize");
    let (context, instrumented) = match wizer.instrument(wasm) {
        Ok(made) => made,
        Err(e) => return unfit(format!("{:#}", e)),
    };
    let module = Module::new(&engine, Cow::from(&instrumented))?;
    let _ticker = Ticker::new(&engine)?;
    let mut states = Vec::new();
    for twice in [false, true] {
        match run(&engine, &module, limits, twice)? {
            Ran::State(state) => states.push(state),
            Ran::Unfit(call) => return unfit(format!("its initialisation calls {call}")),
        }
    }
    let mut second = states.pop().expect("two runs");
    let mut first = states.pop().expect("two runs");
    let (generators, repeats) = repeats(&mut first, &mut second);
    let mut note = None;
    if let Some(what) = repeats {
        if mode != Mode::Always {
            return Ok(Outcome::AsItWas(Some(format!(
                "no snapshot, it initialises in each instance: what it draws at random or from the \
                 clock would repeat in all: {what}; --snapshot (snapshot: yes) accepts that"))));
        }
        note = Some(format!("warning: the same in each instance, though random or from the clock: \
                             {what}; seeded anew: {} generators of Go's runtime", generators.len()));
    }
    let made = at_once(wizer.snapshot(&context, &mut first))??;
    Ok(Outcome::Snapshot(finish(&made, &generators)?, note))
}
