/* contention: three ways to share the table of connections among threads, under the same work.
 *
 *   contention WAY CONNECTIONS LOOPS SECONDS          WAY: mutex, shards, queue
 *
 * Each connection belongs to one of LOOPS threads and to a topic of 8, whose members belong to all
 * of them in turn. It publishes a message of 64 bytes once a second, at a time of its own, spread
 * evenly; instead of every tenth message it disconnects and connects anew. So the work grows with
 * the connections, and a thread that falls behind is late with all that follows.
 *
 *   mutex   one table under one lock: who publishes delivers to all members, holding it
 *   shards  the table in 16 parts by topic, each under a lock of its own
 *   queue   each thread has a table of its own members that nobody else touches, and posts a
 *           message to each other thread that has some (loop/queue, hub/presence: as weir does)
 *
 * A delivery is a copy of the message into the member's buffer and one write(2) to /dev/null: the
 * entry into the kernel that sending takes, without the network's own time. It is late by the time
 * between when its message was due and when it was delivered. A line of JSON is printed; status 1:
 * a delivery is missing, or came twice. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "hub/presence.h"
#include "loop/queue.h"
#include "sys/sys.h"

enum { FRAME = 64, MEMBERS = 8, SHARDS = 16, CHURN = 10, LOOPS_MOST = 16, QUEUE = 1 << 16 };
#define SECOND UINT64_C(1000000000)

struct peer {
    struct peer *next, **back; /* of its topic; back NULL: it is not connected */
    uint32_t topic, generation;
    uint64_t got;
    uint8_t buffer[FRAME];
};

struct message {
    uint64_t due_ns;
    uint32_t topic;
    uint8_t frame[FRAME];
};

struct shard {
    _Alignas(64) pthread_mutex_t lock;
};

struct worker {
    _Alignas(64) pthread_t thread;
    uint32_t number;
    struct peer **topics; /* queue: its own members of each */
    struct queue queue;
    uint64_t published, delivered, full, posted, taken;
    uint64_t slots[64 * 59], sum_ns, worst_ns; /* log-scaled: 64 slots an octave */
};

static enum { MUTEX, SHARDED, QUEUED } way;
static uint32_t n_peers, n_topics, n_loops;
static struct peer *peers, **topics;
static struct shard shards[SHARDS];
static struct worker workers[LOOPS_MOST];
static struct epochs epochs;
static struct presence presence;
static uint64_t start_ns, end_ns;
static _Atomic uint32_t publishing; /* threads that may post yet */
static int null_fd;

static void late(struct worker *w, uint64_t due_ns)
{
    uint64_t now = sys_now_ns(), ns = now > due_ns ? now - due_ns : 0;
    unsigned shift = ns < 64 ? 0 : 57u - (unsigned)__builtin_clzll(ns);
    w->slots[64 * shift + (ns >> shift)]++;
    w->sum_ns += ns;
    w->worst_ns = MAX(w->worst_ns, ns);
    w->delivered++;
}

static void deliver(struct worker *w, struct peer *first, const struct message *m)
{
    for (struct peer *p = first; p; p = p->next) {
        memcpy(p->buffer, m->frame, FRAME);
        p->got++;
        if (write(null_fd, p->buffer, FRAME) != FRAME)
            abort();
        late(w, m->due_ns);
    }
}

/* ---- the table ---- */

static struct peer **topic_of(struct worker *w, uint32_t topic)
{
    return way == QUEUED ? &w->topics[topic] : &topics[topic];
}

static pthread_mutex_t *lock_of(uint32_t topic)
{
    return &shards[way == SHARDED ? topic % SHARDS : 0].lock;
}

static uint64_t hash_of(uint32_t topic)
{
    return (topic + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static void peer_connect(struct worker *w, struct peer *p)
{
    struct peer **head = topic_of(w, p->topic);
    if (way != QUEUED)
        pthread_mutex_lock(lock_of(p->topic));
    else if (presence_join(&presence, hash_of(p->topic)))
        abort();
    p->generation++;
    p->next = *head;
    p->back = head;
    if (p->next)
        p->next->back = &p->next;
    *head = p;
    if (way != QUEUED)
        pthread_mutex_unlock(lock_of(p->topic));
}

static void peer_disconnect(struct worker *w, struct peer *p)
{
    if (way != QUEUED)
        pthread_mutex_lock(lock_of(p->topic));
    *p->back = p->next;
    if (p->next)
        p->next->back = p->back;
    p->back = NULL;
    if (way != QUEUED)
        pthread_mutex_unlock(lock_of(p->topic));
    else
        presence_leave(&presence, hash_of(p->topic), !*topic_of(w, p->topic));
}

static void take(struct worker *w)
{
    struct message *m;
    queue_look(&w->queue);
    while ((m = queue_take(&w->queue)) != NULL) {
        queue_taken(&w->queue, sizeof(*m));
        w->taken++;
        deliver(w, w->topics[m->topic], m);
        mem_free(m, sizeof(*m));
    }
}

static void post(struct worker *w, uint32_t to, const struct message *m)
{
    struct message *copy = mem_alloc(sizeof(*copy));
    if (!copy)
        abort();
    *copy = *m;
    w->posted++;
    while (!queue_post(&workers[to].queue, copy, sizeof(*copy))) {
        w->full++;
        take(w); /* the other may be waiting for us */
    }
}

static void publish(struct worker *w, const struct peer *p, uint64_t due_ns)
{
    struct message m = {.due_ns = due_ns, .topic = p->topic};
    memset(m.frame, (int)p->generation, FRAME);
    w->published++;
    if (way != QUEUED) {
        pthread_mutex_lock(lock_of(p->topic));
        deliver(w, topics[p->topic], &m);
        pthread_mutex_unlock(lock_of(p->topic));
        return;
    }
    uint32_t members;
    uint64_t to = presence_find(&presence, hash_of(p->topic), &members);
    deliver(w, w->topics[p->topic], &m);
    for (to &= ~(UINT64_C(1) << w->number); to; to &= to - 1)
        post(w, (uint32_t)__builtin_ctzll(to), &m);
}

/* ---- threads ---- */

/* Until the time, or something is posted. */
static void rest(struct worker *w, uint64_t until_ns)
{
    uint64_t now = sys_now_ns(), ns = until_ns > now ? until_ns - now : 0;
    const struct timespec t = {(time_t)(ns / SECOND), (long)(ns % SECOND)};
    struct pollfd p = {.fd = w->queue.wake, .events = POLLIN};
    uint64_t count;
    if (way != QUEUED) {
        nanosleep(&t, NULL);
        return;
    }
    epoch_rest(&epochs, w->number);
    if (ppoll(&p, 1, &t, NULL) == 1 && read(p.fd, &count, sizeof(count)) < 0)
        abort();
    epoch_work(&epochs, w->number);
}

/* Connections of this thread in turn; each one's turn comes once a second. */
static void *run(void *arg)
{
    struct worker *w = arg;
    uint32_t mine = (n_peers - w->number + n_loops - 1) / n_loops;
    thread_number = (uint8_t)w->number;
    epoch_work(&epochs, w->number);
    for (uint64_t turn = 0;; turn++) {
        struct peer *p = &peers[w->number + turn % mine * n_loops];
        uint64_t due_ns = start_ns + turn * SECOND / mine;
        if (due_ns >= end_ns)
            break;
        while (sys_now_ns() < due_ns) {
            rest(w, due_ns);
            if (way == QUEUED)
                take(w);
        }
        if ((turn / mine + turn % mine) % CHURN == CHURN - 1) {
            peer_disconnect(w, p);
            peer_connect(w, p);
        } else {
            publish(w, p, due_ns);
        }
        if (way == QUEUED && turn % 64 == 0)
            take(w);
    }
    atomic_fetch_sub(&publishing, 1);
    while (way == QUEUED && atomic_load(&publishing)) {
        take(w);
        rest(w, sys_now_ns() + 1000000);
    }
    if (way == QUEUED)
        take(w);
    epoch_rest(&epochs, w->number);
    return NULL;
}

static double percentile(double part)
{
    uint64_t count = 0, seen = 0;
    for (uint32_t i = 0; i < n_loops; i++)
        count += workers[i].delivered;
    for (size_t s = 0; s < ARRAY_LEN(workers[0].slots); s++) {
        for (uint32_t i = 0; i < n_loops; i++)
            seen += workers[i].slots[s];
        unsigned shift = s < 128 ? 0 : (unsigned)(s / 64) - 1;
        if (seen && (double)seen >= part * (double)count)
            return (double)((s - 64 * shift) << shift) / 1e6;
    }
    return 0;
}

static int report(const char *name, double seconds)
{
    struct worker sum = {0};
    uint64_t got = 0;
    for (uint32_t i = 0; i < n_loops; i++) {
        const struct worker *w = &workers[i];
        sum.published += w->published;
        sum.delivered += w->delivered;
        sum.full += w->full;
        sum.posted += w->posted;
        sum.taken += w->taken;
        sum.sum_ns += w->sum_ns;
        sum.worst_ns = MAX(sum.worst_ns, w->worst_ns);
    }
    for (uint32_t i = 0; i < n_peers; i++)
        got += peers[i].got;
    bool right = got == sum.delivered && sum.posted == sum.taken && sum.published;
    /* Nobody leaves but for a moment: of a topic's members, nearly all get each message. */
    right = right && sum.delivered > sum.published * MEMBERS / 10 * 9;
    printf(
        "{\"way\":\"%s\",\"connections\":%u,\"loops\":%u,\"seconds\":%.2f,\"published\":%llu,"
        "\"delivered\":%llu,\"mean_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f,\"queue_full\":%llu,"
        "\"right\":%s}\n",
        name, n_peers, n_loops, seconds, (unsigned long long)sum.published,
        (unsigned long long)sum.delivered,
        sum.delivered ? (double)sum.sum_ns / 1e6 / (double)sum.delivered : 0.0, percentile(0.99),
        (double)sum.worst_ns / 1e6, (unsigned long long)sum.full, right ? "true" : "false");
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p)
        abort();
    return p;
}

static void prepare(void)
{
    peers = zeroed(n_peers, sizeof(*peers));
    topics = zeroed(n_topics, sizeof(*topics));
    epochs_init(&epochs, n_loops);
    presence_init(&presence, &epochs);
    for (int i = 0; i < SHARDS; i++)
        pthread_mutex_init(&shards[i].lock, NULL);
    for (uint32_t i = 0; i < n_loops; i++) {
        workers[i].number = i;
        workers[i].topics = zeroed(n_topics, sizeof(*topics));
        if (queue_init(&workers[i].queue, QUEUE, UINT64_MAX / 2))
            abort();
    }
    for (uint32_t i = 0; i < n_peers; i++) {
        thread_number = (uint8_t)(i % n_loops);
        peers[i].topic = i / MEMBERS;
        peer_connect(&workers[i % n_loops], &peers[i]);
    }
    thread_number = 0;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"mutex", "shards", "queue"};
    int which = 0;
    while (argc == 5 && which < 3 && strcmp(argv[1], names[which]) != 0)
        which++;
    if (argc != 5 || which == 3) {
        fprintf(stderr, "usage: contention mutex|shards|queue CONNECTIONS LOOPS SECONDS\n");
        return 2;
    }
    way = which;
    n_peers = (uint32_t)strtoul(argv[2], NULL, 10) / MEMBERS * MEMBERS;
    n_loops = (uint32_t)strtoul(argv[3], NULL, 10);
    double seconds = strtod(argv[4], NULL);
    null_fd = open("/dev/null", O_WRONLY);
    if (n_peers < MEMBERS * LOOPS_MOST || !n_loops || n_loops > LOOPS_MOST || null_fd < 0)
        return 2;
    n_topics = n_peers / MEMBERS;
    prepare();
    publishing = n_loops;
    start_ns = sys_now_ns() + 20000000;
    end_ns = start_ns + (uint64_t)(seconds * 1e9);
    for (uint32_t i = 0; i < n_loops; i++)
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]))
            return 2;
    for (uint32_t i = 0; i < n_loops; i++)
        pthread_join(workers[i].thread, NULL);
    return report(argv[1], (double)(sys_now_ns() - start_ns) / 1e9);
}
