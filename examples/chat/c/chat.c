/* A chat room: README.md in the folder above says what it speaks, and how it works. */
#include "weir.h"

#define SAY(conn, s) weir_ws_send(conn, WEIR_TEXT, s, sizeof(s) - 1)

enum { SAYS = 5, WINDOW_MS = 1000, NAME_MAX = 32, MESSAGE_MAX = 1024, WHO_MAX = 100 };

struct text {
    const char *p;
    uint32_t n;
};

/* A connection's attachment: `NAME ROOM` behind the times. */
struct member {
    int64_t said[SAYS]; /* the oldest first */
    char who[2 * NAME_MAX + 1];
};

static char message[MESSAGE_MAX], out[WHO_MAX * (NAME_MAX + 2) + MESSAGE_MAX];
static uint32_t used;

static void put(struct text t)
{
    __builtin_memcpy(out + used, t.p, t.n);
    used += t.n;
}

#define PUT(s) put((struct text){s, sizeof(s) - 1})

static int is(struct text t, const char *word, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && i < t.n && t.p[i] == word[i])
        i++;
    return i == n && t.n == n;
}

#define IS(t, word) is(t, word, sizeof(word) - 1)

/* Takes what stands before the first space off the front of t. */
static struct text word(struct text *t)
{
    struct text w = {t->p, 0};
    while (w.n < t->n && t->p[w.n] != ' ')
        w.n++;
    uint32_t taken = w.n + (w.n < t->n);
    t->p += taken, t->n -= taken;
    return w;
}

/* The name and the room of a connection; 0: it is in none. */
static int32_t load(uint64_t conn, struct member *m, struct text *name, struct text *room)
{
    int32_t n = weir_ws_attachment_get(conn, m, sizeof(*m));
    if (n <= (int32_t)sizeof(m->said) || n > (int32_t)sizeof(*m))
        return 0;
    *room = (struct text){m->who, (uint32_t)n - sizeof(m->said)};
    *name = word(room);
    return n;
}

static struct text topic_of(struct text room)
{
    static char topic[5 + NAME_MAX] = "room/";
    __builtin_memcpy(topic + 5, room.p, room.n);
    return (struct text){topic, 5 + room.n};
}

/* `* NAME joined` or left, to the others. */
static void announce(uint64_t conn, struct text topic, struct text name, struct text what)
{
    used = 0;
    PUT("* ");
    put(name);
    put(what);
    weir_publish(topic.p, topic.n, WEIR_TEXT, out, used, conn);
}

static int32_t join(uint64_t conn, struct text rest)
{
    struct member m = {0};
    uint32_t n = rest.n;
    const char *who = rest.p;
    struct text name = word(&rest), room = word(&rest);
    if (!name.n || name.n > NAME_MAX || !room.n || room.n > NAME_MAX || name.n + 1 + room.n != n)
        return SAY(conn, "what?");
    struct text topic = topic_of(room);
    __builtin_memcpy(m.who, who, n);
    weir_ws_attachment_set(&m, sizeof(m.said) + n);
    weir_ws_subscribe(conn, topic.p, topic.n);
    announce(conn, topic, name, (struct text){" joined", 7});
    used = 0;
    PUT("* welcome to ");
    put(room);
    PUT(", ");
    put(name);
    return weir_ws_send(conn, WEIR_TEXT, out, used);
}

static int32_t say(uint64_t conn, struct member *m, uint32_t n, struct text name, struct text topic,
                   struct text what)
{
    int64_t now = weir_now_ms();
    if (!what.n)
        return SAY(conn, "what?");
    if (now - m->said[0] < WINDOW_MS)
        return SAY(conn, "slow down");
    for (int i = 1; i < SAYS; i++)
        m->said[i - 1] = m->said[i];
    m->said[SAYS - 1] = now;
    weir_ws_attachment_set(m, n);
    put(name);
    PUT(": ");
    put(what);
    return weir_publish(topic.p, topic.n, WEIR_TEXT, out, used, 0);
}

static int32_t who(uint64_t conn, struct text topic)
{
    struct member m;
    struct text name, room;
    int64_t other = 0;
    int shown = 0;
    PUT("* here: ");
    while ((other = weir_topic_next(topic.p, topic.n, (uint64_t)other)) > 0) {
        if (!load((uint64_t)other, &m, &name, &room))
            continue;
        if (shown)
            PUT(", ");
        if (shown++ == WHO_MAX) {
            PUT("...");
            break;
        }
        put(name);
    }
    return weir_ws_send(conn, WEIR_TEXT, out, used);
}

static void leave(uint64_t conn, struct text name, struct text topic)
{
    weir_ws_attachment_set(0, 0);
    weir_ws_unsubscribe(conn, topic.p, topic.n);
    announce(conn, topic, name, (struct text){" left", 5});
}

static int32_t command(uint64_t conn, struct text rest)
{
    struct member m;
    struct text name, room, verb = word(&rest);
    int32_t n = load(conn, &m, &name, &room);
    if (IS(verb, "join"))
        return n ? SAY(conn, "leave first") : join(conn, rest);
    if (!IS(verb, "say") && !IS(verb, "who") && !IS(verb, "leave"))
        return SAY(conn, "what?");
    if (!n)
        return SAY(conn, "join first");
    struct text topic = topic_of(room);
    if (IS(verb, "say"))
        return say(conn, &m, (uint32_t)n, name, topic, rest);
    if (IS(verb, "who"))
        return who(conn, topic);
    leave(conn, name, topic);
    return SAY(conn, "* bye");
}

int32_t on_ws_message(uint64_t conn, uint32_t kind, uint32_t len)
{
    if (kind != WEIR_TEXT)
        return 1003;
    if (len > MESSAGE_MAX)
        return 1009;
    weir_msg_read(message, sizeof(message));
    for (uint32_t i = 0; i < len; i++)
        if ((uint8_t)message[i] < ' ' || message[i] == 0x7f)
            return 1007;
    return command(conn, (struct text){message, len}) == WEIR_LIMIT ? 1013 : 0;
}

void on_ws_close(uint64_t conn, uint32_t code, uint32_t clean)
{
    struct member m;
    struct text name, room;
    (void)code, (void)clean;
    if (load(conn, &m, &name, &room))
        announce(conn, topic_of(room), name, (struct text){" left", 5});
}
