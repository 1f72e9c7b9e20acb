/* A chat room: README.md in the folder above says what it speaks, and how it works. */
import * as weir from "../../../sdk/assemblyscript/assembly/index";

const SAYS = 5, WINDOW_MS: i64 = 1000, NAME_MAX = 32, MESSAGE_MAX: u32 = 1024, WHO_MAX = 100;

/* A connection's attachment. */
class Member {
  said: StaticArray<i64> = new StaticArray<i64>(SAYS); // the oldest first

  constructor(public name: string, public room: string) {}

  /* null: it is in no room. */
  static load(conn: weir.Conn): Member | null {
    const bytes = weir.attachment(conn);
    if (bytes === null || bytes.byteLength <= 8 * SAYS) return null;
    const who = String.UTF8.decode(bytes.slice(8 * SAYS)).split(" ");
    const member = new Member(who[0], who[1]);
    memory.copy(changetype<usize>(member.said), changetype<usize>(bytes), 8 * SAYS);
    return member;
  }

  store(): i32 {
    const who = String.UTF8.encode(this.name + " " + this.room);
    const bytes = new ArrayBuffer(8 * SAYS + who.byteLength);
    memory.copy(changetype<usize>(bytes), changetype<usize>(this.said), 8 * SAYS);
    memory.copy(changetype<usize>(bytes) + 8 * SAYS, changetype<usize>(who), who.byteLength);
    return weir.attach(bytes);
  }

  get topic(): string {
    return "room/" + this.room;
  }

  /* To the others. */
  announce(conn: weir.Conn, what: string): void {
    weir.publishText(this.topic, "* " + this.name + " " + what, conn);
  }
}

function fits(name: string): bool {
  const n = String.UTF8.byteLength(name);
  return n > 0 && n <= NAME_MAX;
}

function join(conn: weir.Conn, who: string): i32 {
  const names = who.split(" ");
  if (names.length != 2 || !fits(names[0]) || !fits(names[1])) return weir.sendText(conn, "what?");
  const member = new Member(names[0], names[1]);
  member.store();
  weir.subscribe(conn, member.topic);
  member.announce(conn, "joined");
  return weir.sendText(conn, "* welcome to " + member.room + ", " + member.name);
}

function say(conn: weir.Conn, member: Member, text: string): i32 {
  const now = weir.now();
  if (text.length == 0) return weir.sendText(conn, "what?");
  if (now - member.said[0] < WINDOW_MS) return weir.sendText(conn, "slow down");
  for (let i = 1; i < SAYS; i++) member.said[i - 1] = member.said[i];
  member.said[SAYS - 1] = now;
  member.store();
  return weir.publishText(member.topic, member.name + ": " + text);
}

function who(conn: weir.Conn, member: Member): i32 {
  const here = weir.members(member.topic, WHO_MAX + 1);
  const names: string[] = [];
  for (let i = 0; i < here.length; i++) {
    const other = Member.load(here[i]);
    if (other !== null) names.push(names.length == WHO_MAX ? "..." : other.name);
  }
  return weir.sendText(conn, "* here: " + names.join(", "));
}

function leave(conn: weir.Conn, member: Member): i32 {
  weir.attach(new ArrayBuffer(0));
  weir.unsubscribe(conn, member.topic);
  member.announce(conn, "left");
  return weir.sendText(conn, "* bye");
}

function command(conn: weir.Conn, text: string): i32 {
  const space = text.indexOf(" ");
  const verb = space < 0 ? text : text.substring(0, space);
  const rest = space < 0 ? "" : text.substring(space + 1);
  const member = Member.load(conn);
  if (verb == "join") {
    return member === null ? join(conn, rest) : weir.sendText(conn, "leave first");
  }
  if (verb != "say" && verb != "who" && verb != "leave") return weir.sendText(conn, "what?");
  if (member === null) return weir.sendText(conn, "join first");
  if (verb == "say") return say(conn, member, rest);
  return verb == "who" ? who(conn, member) : leave(conn, member);
}

export function on_ws_message(conn: weir.Conn, kind: weir.Kind, size: u32): u32 {
  if (kind != weir.TEXT) return 1003;
  if (size > MESSAGE_MAX) return 1009;
  const text = weir.readText(size);
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c < 0x20 || c == 0x7f) return 1007;
  }
  return command(conn, text) == weir.LIMIT ? 1013 : 0;
}

export function on_ws_close(conn: weir.Conn, code: u32, clean: u32): void {
  const member = Member.load(conn);
  if (member !== null) member.announce(conn, "left");
}
