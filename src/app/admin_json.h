/* JSON of the admin listener, and its pages. */
#ifndef WEIR_ADMIN_JSON_H
#define WEIR_ADMIN_JSON_H

#include <jansson.h>

#include "app/gateway.h"

void admin_json(struct gateway *gw, struct conn *c, json_t *doc); /* a 200; takes doc */
/* "cursor=HEX" and "limit=N", in any order. false: something else. */
bool admin_page(const struct http_exchange *ex, uint64_t *cursor, uint32_t *limit);
#define ADMIN_PAGE_DETAIL                                                                          \
    "the query is limit=1 to limit=1000 and cursor=, the `next` of the page before"
json_t *admin_hex(uint64_t v); /* an id; 0: null */

#endif
