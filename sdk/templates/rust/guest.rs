//! @NAME@: answers HTTP with a count of the visits, and sends WebSocket messages back.
use weir::{kv, response, Conn, Error, Message};

fn visit() -> weir::Result<()> {
    let before = kv::get(b"visits").unwrap_or_default();
    let visits = String::from_utf8_lossy(&before).parse().unwrap_or(0u32) + 1;
    kv::set(b"visits", visits.to_string().as_bytes())?;
    response::write(format!("hello from @NAME@, visit {}\n", visits).as_bytes())
}

weir::on_http!(on_request);
fn on_request() -> u16 {
    visit().map_or(503, |_| 0)
}

weir::on_ws_message!(on_message);
fn on_message(conn: Conn, message: Message) -> u16 {
    match conn.send(message.kind, &message.read()) {
        Err(Error::Limit) => 1013, // it does not read what it is sent: try again later
        _ => 0,
    }
}
