/* W3C Trace Context 1, traceparent: read strictly, as what it says ends up in logs. */
#ifndef WEIR_HTTP_TRACE_H
#define WEIR_HTTP_TRACE_H

#include "http/http_parse.h"

enum { HTTP_TRACE_ID = 33 }; /* 32 hex digits and a NUL */

/* The trace-id of a request's one traceparent. false: there is none, or it is not valid (3.2). */
bool http_trace_id(const struct http_request *r, const uint8_t *head, char out[HTTP_TRACE_ID]);

#endif
