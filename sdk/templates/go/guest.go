// @NAME@: answers HTTP with a count of the visits, and sends WebSocket messages back.
package main

import (
	"errors"
	"fmt"
	"strconv"

	"@NAME@/weir"
)

//go:wasmexport on_http
func onHTTP() uint32 {
	before, _ := weir.Get("visits")
	visits, _ := strconv.Atoi(string(before))
	visits++
	weir.Set("visits", []byte(strconv.Itoa(visits)), 0)
	weir.RespondText(fmt.Sprintf("hello from @NAME@, visit %d\n", visits))
	return 0
}

//go:wasmexport on_ws_message
func onMessage(conn weir.Conn, kind weir.Kind, size uint32) uint32 {
	_, err := conn.Send(kind, weir.ReadMessage(size))
	if errors.Is(err, weir.ErrLimit) {
		return 1013 // it does not read what it is sent: try again later
	}
	return 0
}

func main() {}
