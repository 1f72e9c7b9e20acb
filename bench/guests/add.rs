//! For bench/cold: parses two numbers out of text that it has formatted, on the heap of std.
#[no_mangle]
pub extern "C" fn add(a: f64, b: f64) -> f64 {
    let text = format!("{a} {b}");
    text.split(' ').map(|t| t.parse::<f64>().unwrap_or(f64::NAN)).sum()
}
