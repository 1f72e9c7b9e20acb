/* @NAME@: answers HTTP with a count of the visits, and sends WebSocket messages back. */
import * as weir from "./weir";

export function on_http(): u32 {
  const before = weir.get("visits");
  const visits = (before === null ? 0 : I32.parseInt(String.UTF8.decode(before))) + 1;
  weir.set("visits", String.UTF8.encode(visits.toString()));
  weir.respondText("hello from @NAME@, visit " + visits.toString() + "\n");
  return 0;
}

export function on_ws_message(conn: weir.Conn, kind: weir.Kind, size: u32): u32 {
  // A peer that does not read what it is sent is told to try again later.
  return weir.send(conn, kind, weir.readMessage(size)) == weir.LIMIT ? 1013 : 0;
}
