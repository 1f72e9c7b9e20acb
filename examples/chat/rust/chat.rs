//! A chat room: README.md in the folder above says what it speaks, and how it works.
use weir::{Conn, Error, Kind, Message, Sent};

const SAYS: usize = 5;
const WINDOW_MS: i64 = 1000;
const NAME_MAX: usize = 32;
const MESSAGE_MAX: usize = 1024;
const WHO_MAX: usize = 100;

/// A connection's attachment.
struct Member {
    said: [i64; SAYS], // the oldest first
    name: String,
    room: String,
}

impl Member {
    /// None: it is in no room.
    fn load(conn: Conn) -> Option<Member> {
        let bytes = conn.attachment().ok()?;
        let who = std::str::from_utf8(bytes.get(8 * SAYS..)?).ok()?;
        let (name, room) = who.split_once(' ')?;
        let mut said = [0; SAYS];
        for (time, bytes) in said.iter_mut().zip(bytes.chunks_exact(8)) {
            *time = i64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(Member {
            said,
            name: name.into(),
            room: room.into(),
        })
    }

    fn store(&self) -> weir::Result<()> {
        let mut bytes: Vec<u8> = self.said.iter().flat_map(|t| t.to_le_bytes()).collect();
        bytes.extend(format!("{} {}", self.name, self.room).as_bytes());
        weir::attach(&bytes)
    }

    fn topic(&self) -> String {
        format!("room/{}", self.room)
    }

    /// To the others.
    fn announce(&self, conn: Conn, what: &str) {
        let line = format!("* {} {}", self.name, what);
        let _ = weir::publish(&self.topic(), Kind::Text, line.as_bytes(), Some(conn));
    }
}

fn join(conn: Conn, who: &str) -> weir::Result<Sent> {
    let fits = |s: &str| !s.is_empty() && s.len() <= NAME_MAX && !s.contains(' ');
    let (name, room) = match who.split_once(' ') {
        Some((name, room)) if fits(name) && fits(room) => (name, room),
        _ => return conn.send_text("what?"),
    };
    let member = Member {
        said: [0; SAYS],
        name: name.into(),
        room: room.into(),
    };
    member.store()?;
    conn.subscribe(&member.topic())?;
    member.announce(conn, "joined");
    conn.send_text(&format!("* welcome to {}, {}", room, name))
}

fn say(conn: Conn, member: &mut Member, text: &str) -> weir::Result<Sent> {
    let now = weir::now_ms();
    if text.is_empty() {
        return conn.send_text("what?");
    }
    if now - member.said[0] < WINDOW_MS {
        return conn.send_text("slow down");
    }
    member.said.rotate_left(1);
    member.said[SAYS - 1] = now;
    member.store()?;
    let line = format!("{}: {}", member.name, text);
    weir::publish(&member.topic(), Kind::Text, line.as_bytes(), None).map(|_| Sent::Queued)
}

fn who(conn: Conn, member: &Member) -> weir::Result<Sent> {
    let topic = member.topic();
    let here = weir::members(&topic)
        .filter_map(Member::load)
        .map(|m| m.name);
    let mut names: Vec<String> = here.take(WHO_MAX + 1).collect();
    if names.len() > WHO_MAX {
        names[WHO_MAX] = "...".into();
    }
    conn.send_text(&format!("* here: {}", names.join(", ")))
}

fn leave(conn: Conn, member: &Member) -> weir::Result<Sent> {
    weir::attach(&[])?;
    conn.unsubscribe(&member.topic())?;
    member.announce(conn, "left");
    conn.send_text("* bye")
}

fn command(conn: Conn, text: &str) -> weir::Result<Sent> {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    match (verb, Member::load(conn)) {
        ("join", None) => join(conn, rest),
        ("join", _) => conn.send_text("leave first"),
        ("say", Some(mut member)) => say(conn, &mut member, rest),
        ("who", Some(member)) => who(conn, &member),
        ("leave", Some(member)) => leave(conn, &member),
        ("say" | "who" | "leave", None) => conn.send_text("join first"),
        _ => conn.send_text("what?"),
    }
}

weir::on_ws_message!(on_message);
fn on_message(conn: Conn, message: Message) -> u16 {
    if message.len > MESSAGE_MAX {
        return 1009;
    }
    match message.text() {
        None => 1003,
        Some(text) if text.bytes().any(|b| b < b' ' || b == 0x7f) => 1007,
        Some(text) => match command(conn, &text) {
            Err(Error::Limit) => 1013,
            _ => 0,
        },
    }
}

weir::on_ws_close!(on_close);
fn on_close(conn: Conn, _code: u16, _clean: bool) {
    if let Some(member) = Member::load(conn) {
        member.announce(conn, "left");
    }
}
