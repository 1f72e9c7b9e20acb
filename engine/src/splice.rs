//! Adding entries to sections of a module that was validated, byte by byte: all else stays as it is.

pub(crate) fn leb(out: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A number of a module that was validated, and the index after it.
pub(crate) fn leb_read(from: &[u8], mut at: usize) -> (u32, usize) {
    let (mut n, mut shift) = (0u32, 0);
    loop {
        n |= ((from[at] & 0x7f) as u32) << shift;
        at += 1;
        if from[at - 1] < 0x80 {
            return (n, at);
        }
        shift += 7;
    }
}

/// The section `id` with `n` entries more, which are `more`; `old` is its content, if it had any.
pub(crate) fn section(out: &mut Vec<u8>, id: u8, old: Option<&[u8]>, n: u32, more: &[u8]) {
    let mut body = Vec::new();
    let (count, rest) = old.map_or((0, &[][..]), |old| {
        let (count, at) = leb_read(old, 0);
        (count, &old[at..])
    });
    leb(&mut body, count + n);
    body.extend_from_slice(rest);
    body.extend_from_slice(more);
    out.push(id);
    leb(out, body.len() as u32);
    out.extend_from_slice(&body);
}
