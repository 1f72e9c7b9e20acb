package weir

import "unsafe"

// The functions as they are: what sdk/c/weir.h declares. A string is its pointer and its length.

//go:wasmimport weir_v1 msg_read
//go:noescape
func msgRead(to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 ws_send
//go:noescape
func wsSend(conn uint64, kind uint32, data unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 ws_send
//go:noescape
func wsSendText(conn uint64, kind uint32, text string) int32

//go:wasmimport weir_v1 ws_close
//go:noescape
func wsClose(conn uint64, code uint32, why string) int32

//go:wasmimport weir_v1 ws_buffered
func wsBuffered(conn uint64) int64

//go:wasmimport weir_v1 ws_attachment_get
//go:noescape
func wsAttachmentGet(conn uint64, to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 ws_attachment_set
//go:noescape
func wsAttachmentSet(data unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 ws_subscribe
//go:noescape
func wsSubscribe(conn uint64, topic string) int32

//go:wasmimport weir_v1 ws_unsubscribe
//go:noescape
func wsUnsubscribe(conn uint64, topic string) int32

//go:wasmimport weir_v1 publish
//go:noescape
func publish(topic string, kind uint32, data unsafe.Pointer, size uint32, except uint64) int32

//go:wasmimport weir_v1 topic_next
//go:noescape
func topicNext(topic string, after uint64) int64

//go:wasmimport weir_v1 req_get
//go:noescape
func reqGet(field uint32, name string, to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 req_body
//go:noescape
func reqBody(offset uint32, to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 resp_status
func respStatus(status uint32) int32

//go:wasmimport weir_v1 resp_header
//go:noescape
func respHeader(name, value string) int32

//go:wasmimport weir_v1 resp_write
//go:noescape
func respWrite(data unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 resp_write
//go:noescape
func respWriteText(text string) int32

//go:wasmimport weir_v1 kv_get
//go:noescape
func kvGet(key string, to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 kv_set
//go:noescape
func kvSet(key string, value unsafe.Pointer, size uint32, ttlMS int64) int32

//go:wasmimport weir_v1 timer_set
func timerSet(ms, cookie int64) int64

//go:wasmimport weir_v1 timer_cancel
func timerCancel(id int64) int32

//go:wasmimport weir_v1 now_ms
func nowMS() int64

//go:wasmimport weir_v1 random
//go:noescape
func random(to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 config_get
//go:noescape
func configGet(key string, to unsafe.Pointer, size uint32) int32

//go:wasmimport weir_v1 log
//go:noescape
func log(level uint32, text string) int32
