// A chat room: README.md in the folder above says what it speaks, and how it works.
package main

import (
	"encoding/binary"
	"errors"
	"strings"

	"weir"
)

const (
	says       = 5
	windowMS   = 1000
	nameMax    = 32
	messageMax = 1024
	whoMax     = 100
)

// A connection's attachment.
type member struct {
	said       [says]int64 // the oldest first
	name, room string
}

// load returns nil for a connection that is in no room.
func load(conn weir.Conn) *member {
	b, err := conn.Attachment()
	if err != nil || len(b) <= 8*says {
		return nil
	}
	m := &member{}
	for i := range m.said {
		m.said[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
	}
	m.name, m.room, _ = strings.Cut(string(b[8*says:]), " ")
	return m
}

func (m *member) store() error {
	var b []byte
	for _, t := range m.said {
		b = binary.LittleEndian.AppendUint64(b, uint64(t))
	}
	return weir.Attach(append(b, m.name+" "+m.room...))
}

func (m *member) topic() string {
	return "room/" + m.room
}

// announce tells the others.
func (m *member) announce(conn weir.Conn, what string) {
	weir.Publish(m.topic(), weir.Text, []byte("* "+m.name+" "+what), conn)
}

func answer(conn weir.Conn, text string) error {
	_, err := conn.SendText(text)
	return err
}

func join(conn weir.Conn, who string) error {
	name, room, _ := strings.Cut(who, " ")
	if name == "" || len(name) > nameMax || room == "" || len(room) > nameMax ||
		strings.Contains(room, " ") {
		return answer(conn, "what?")
	}
	m := &member{name: name, room: room}
	if err := errors.Join(m.store(), conn.Subscribe(m.topic())); err != nil {
		return err
	}
	m.announce(conn, "joined")
	return answer(conn, "* welcome to "+room+", "+name)
}

func say(conn weir.Conn, m *member, text string) error {
	now := weir.Now()
	if text == "" {
		return answer(conn, "what?")
	}
	if now-m.said[0] < windowMS {
		return answer(conn, "slow down")
	}
	copy(m.said[:], m.said[1:])
	m.said[says-1] = now
	_, err := weir.Publish(m.topic(), weir.Text, []byte(m.name+": "+text), 0)
	return errors.Join(m.store(), err)
}

func who(conn weir.Conn, m *member) error {
	var names []string
	for other := range weir.Members(m.topic()) {
		m := load(other)
		if m == nil {
			continue
		}
		if len(names) == whoMax {
			names = append(names, "...")
			break
		}
		names = append(names, m.name)
	}
	return answer(conn, "* here: "+strings.Join(names, ", "))
}

func leave(conn weir.Conn, m *member) error {
	err := errors.Join(weir.Attach(nil), conn.Unsubscribe(m.topic()))
	m.announce(conn, "left")
	return errors.Join(err, answer(conn, "* bye"))
}

func command(conn weir.Conn, text string) error {
	verb, rest, _ := strings.Cut(text, " ")
	m := load(conn)
	switch verb {
	default:
		return answer(conn, "what?")
	case "join":
		if m != nil {
			return answer(conn, "leave first")
		}
		return join(conn, rest)
	case "say", "who", "leave":
	}
	if m == nil {
		return answer(conn, "join first")
	}
	switch verb {
	case "say":
		return say(conn, m, rest)
	case "who":
		return who(conn, m)
	}
	return leave(conn, m)
}

//go:wasmexport on_ws_message
func onMessage(conn weir.Conn, kind weir.Kind, size uint32) uint32 {
	if kind != weir.Text {
		return 1003
	}
	if size > messageMax {
		return 1009
	}
	text := string(weir.ReadMessage(size))
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return 1007
	}
	if errors.Is(command(conn, text), weir.ErrLimit) {
		return 1013
	}
	return 0
}

//go:wasmexport on_ws_close
func onClose(conn weir.Conn, code, clean uint32) {
	if m := load(conn); m != nil {
		m.announce(conn, "left")
	}
}

func main() {}
