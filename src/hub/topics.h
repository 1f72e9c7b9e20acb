/* Topics: which connections are in which, and messages on their way to all of one.
 *
 * A topic is named by its space and its name, and is there while a connection is in it. A published
 * frame goes to those that were in the topic when it was published, by reference: there is one copy
 * of it until the last of them has taken it. A part of them gets it in each iteration of the loop,
 * so that a large topic keeps nobody waiting. Messages of a topic keep their order. */
#ifndef WEIR_TOPICS_H
#define WEIR_TOPICS_H

#include "base/list.h"
#include "hub/presence.h"
#include "net/conn.h"

enum { TOPIC_WRITES = 256 }; /* that publishing may do in an iteration */
/* Messages on their way, and their bytes, before topics_room says no. */
enum { TOPIC_PENDING = 1024, TOPIC_PENDING_BYTES = 4 << 20 };

/* What hub keeps with a connection, from its first use on: a guest's attachment, its topics. */
struct hub_conn {
    struct buf attachment;
    bool attached;
    uint32_t n_members;
    struct topic_member *members;
};

struct topic_member {          /* a connection in a topic */
    struct list node;          /* of the topic */
    struct topic_member *next; /* of the connection */
    struct topic *topic;
    uint64_t conn, joined; /* its id; the publication before which it joined */
};

struct topic {
    struct topic *next; /* of the bucket */
    struct list members, publications;
    uint64_t hash;
    uint32_t n_members;
    uint32_t key_n;
    uint8_t key[]; /* space, a zero byte, name */
};

struct topics {
    struct net *net;
    struct presence *presence; /* NULL: there is one loop */
    struct topic **buckets;
    uint32_t n_buckets, count;
    uint64_t published;  /* number of the last publication */
    struct list pending; /* publications, in order */
    uint32_t n_pending;
    uint64_t pending_bytes;
    uint32_t left; /* writes of this iteration */
    /* Hands a frame, by reference, to a connection that is open. */
    void (*deliver)(void *owner, struct conn *c, struct frame *frame);
    void *owner;
};

/* deliver and owner are set by the caller. */
void topics_init(struct topics *t, struct net *net);
void topics_done(struct topics *t);

/* The hub's part of a connection, made where there is none. NULL: no memory. */
struct hub_conn *topics_conn(struct conn *c);
void topics_leave_all(struct topics *t, struct conn *c);
void topics_conn_free(struct topics *t, struct conn *c); /* after that, the rest of it */

/* NULL: nobody is in it. */
struct topic *topics_find(const struct topics *t, struct slice space, struct slice name);
bool topics_has(const struct topic *topic, const struct conn *c);
/* The same again does nothing. */
enum err topics_join(struct topics *t, struct conn *c, struct slice space,
                     struct slice name) MUST_USE;
void topics_leave(struct topics *t, struct conn *c, struct slice space, struct slice name);
/* The open connection after the one that cursor names, 0: the first. 0: there is no more. false:
 * the one that cursor names is not in it any more. */
bool topics_next(const struct topics *t, const struct topic *topic, uint64_t cursor, uint64_t *out);

/* Calls found for n topics or a few more, from *cursor on: 0, or where the call before left it; 0
 * afterwards: there are no more. One that is there throughout is found at least once. */
void topics_scan(const struct topics *t, uint64_t *cursor, uint32_t n,
                 void (*found)(void *arg, const struct topic *topic), void *arg);

/* Bits of other loops with members of the topic. */
uint64_t topics_elsewhere(const struct topics *t, struct slice space, struct slice name);
/* Members of all loops; topic: what topics_find found in this one. */
uint32_t topics_members(const struct topics *t, const struct topic *topic, struct slice space,
                        struct slice name);
/* Topics of all loops; whether this loop is the first that is in one. */
uint32_t topics_count(const struct topics *t);
bool topics_first(const struct topics *t, const struct topic *topic);

/* Whether n more messages should be published. A single one, however large, goes alone. */
bool topics_room(const struct topics *t, uint32_t n, uint64_t bytes);
/* Sends a frame, head and data, to all of the topic but `except`. ERR_NO_MEMORY: some do not get
 * it. */
enum err topics_publish(struct topics *t, struct slice space, struct slice name, uint64_t except,
                        struct slice head, struct slice data) MUST_USE;
/* The loop's phase: true, there is more to do. */
bool topics_run(struct topics *t);

#endif
