//! weir-oracle-modules FOLDER N: N random but always the same modules, which end by themselves and
//! import nothing.
use std::{env, fs};

use wasm_smith::{Config, Module};

/// splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e3779b97f4a7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    };
    (0..n / 8).flat_map(|_| next().to_le_bytes()).collect()
}

fn main() {
    let mut args = env::args().skip(1);
    let folder = args.next().expect("FOLDER");
    let n: u64 = args.next().and_then(|n| n.parse().ok()).expect("N");
    fs::create_dir_all(&folder).expect("the folder");
    for seed in 0..n {
        let config = Config {
            max_imports: 0,
            min_funcs: 4,
            min_globals: 2,
            min_memories: 1,
            max_memories: 1,
            max_tables: 1,
            max_memory32_bytes: 8 << 16,
            max_table_elements: 1000,
            export_everything: true,
            allow_start_export: false,
            bulk_memory_enabled: seed % 4 == 0,
            reference_types_enabled: seed % 4 == 0,
            exceptions_enabled: false,
            gc_enabled: false,
            threads_enabled: false,
            memory64_enabled: false,
            shared_everything_threads_enabled: false,
            custom_page_sizes_enabled: false,
            tail_call_enabled: false,
            wide_arithmetic_enabled: false,
            relaxed_simd_enabled: false,
            memory_max_size_required: true,
            ..Config::default()
        };
        let data = bytes(seed, 4096);
        let mut u = arbitrary::Unstructured::new(&data);
        let Ok(mut module) = Module::new(config, &mut u) else { continue };
        if module.ensure_termination(2000).is_ok() {
            fs::write(format!("{folder}/{seed}.wasm"), module.to_bytes()).expect("a file");
        }
    }
}
