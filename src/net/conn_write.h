/* What conn.c and conn_write.c say to each other, and nobody else. */
#ifndef WEIR_CONN_WRITE_H
#define WEIR_CONN_WRITE_H

#include "net/conn.h"

/* conn_write.c */
void net_write_init(struct net *net);
void conn_flush_queue(struct net *net,
                      struct conn *c); /* the socket takes more; there is a queue */
enum err conn_queue_restore(struct net *net, struct conn *c, const struct conn_rest *rest) MUST_USE;
void conn_queue_free(struct net *net, struct conn *c);
void conn_queue_watch(struct net *net, struct conn *c); /* whether the peer takes something */

/* conn.c */
/* conn_shutdown, but for what has gathered; nothing where it is shut down already. */
void conn_end(struct net *net, struct conn *c, enum close_reason reason);
void conn_sent_all(struct net *net, struct conn *c); /* nothing waits any more */
void conn_go_on(struct net *net, struct conn *c);    /* input, unless something pauses it */

#endif
