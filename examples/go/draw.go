// A guest in Go that draws at random in every way that its library has. It shows that weirc stores
// it initialised, and that its instances, which all begin there, draw other numbers all the same.
// Built by `GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared`.
package main

import (
	crand "crypto/rand"
	"encoding/binary"
	"hash/maphash"
	"math/rand"
)

var started = 0

func init() { started++ }

// started is 1 in every instance: init ran once, when the module was compiled or in this instance.
//
//go:wasmexport started
func startedTimes() int64 { return int64(started) }

//go:wasmexport mathrand
func mathRand() int64 { return rand.Int63() }

//go:wasmexport cryptorand
func cryptoRand() int64 {
	var b [8]byte
	crand.Read(b[:])
	return int64(binary.LittleEndian.Uint64(b[:]))
}

//go:wasmexport hash
func hash() int64 { return int64(maphash.String(maphash.MakeSeed(), "weir")) }

// order is the sequence in which a map of sixteen keys is walked, four bits each.
//
//go:wasmexport order
func order() int64 {
	m := map[int64]bool{}
	for i := int64(0); i < 16; i++ {
		m[i] = true
	}
	var o int64
	for k := range m {
		o = o<<4 | k
	}
	return o
}

func main() {}
