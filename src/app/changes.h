/* The supervisor's side of modules: the versions that it hands to each worker, and their changes
 * while one serves. One change runs at a time, and nothing here waits:
 *
 *          asked for              compiled, or in the cache       LOADED
 *   IDLE --------------> COMPILE -----------------------> LOAD ------------> IDLE, or the next
 *                          |     weirc fails, is too slow   | REFUSED          module of a reload
 *                          +--------> IDLE <----------------+ the worker died
 *
 * The old version stays in force in every case but LOADED. A reload whose file says another
 * configuration, and an upgrade, are HANDOVER meanwhile: succession.h. */
#ifndef WEIR_CHANGES_H
#define WEIR_CHANGES_H

#include "app/artifact.h"
#include "app/control.h"
#include "loop/loop.h"

/* A version, and its code as a sealed memfd; -1: there is none. */
struct module_artifact {
    struct module_version version;
    int fd;
};

struct changes_module {
    struct module_artifact now, before, canary;
    uint32_t last; /* the highest number given to a version */
    char file[17]; /* of the module's file as it was last taken: the first digits of its SHA-256 */
    bool anew;     /* compiled in this run, as the cached code did not fit */
    bool going;    /* removed, and the worker has not freed its place */
    bool carried;  /* descriptors are those of the changes before, while both are there */
};

enum change_state { CHANGE_IDLE, CHANGE_COMPILE, CHANGE_LOAD, CHANGE_HANDOVER };

struct changes {
    struct config *config; /* modules that are added come behind the file's */
    const char *config_file;
    struct loop *loop;
    struct changes_module *modules; /* as config->modules, with room for those */
    size_t room;                    /* of modules */
    int worker;                     /* the control socket of one that serves; -1: none */
    bool asked, reload, upgrade;    /* what waits: by the worker; by a signal */
    /* Whether a reload or an upgrade is to be a hand-over, which then has begun. NULL: never. */
    bool (*succeed)(void *owner, uint32_t kind);
    void *owner;
    uint32_t asked_kind, asked_module, asked_percent;
    char asked_words[CONFIG_WORDS_MAX];
    struct buf upload; /* what is being PUT */
    bool upload_over;  /* it was larger than that */

    enum change_state state;
    uint32_t kind; /* CONTROL_PUT, _ADD, _REMOVE, _ROLLBACK, _PROMOTE, _RELOAD */
    bool answers;  /* the worker asked */
    bool cached;   /* what is loaded was compiled earlier */
    uint32_t module, percent;
    struct artifact artifact;
    struct module_artifact next;
    struct timer timer; /* of weirc */
    enum err err;
    struct buf swapped, failed; /* names as JSON; reasons as text */
};

/* Opens every module's code, or says every reason against it on standard error. */
bool changes_open(struct changes *c, struct config *config, const char *file, struct loop *loop);
/* The same without any: whoever calls it sets modules. */
bool changes_restore(struct changes *c, struct config *config, const char *file, struct loop *loop);
/* Those of a module that was added: config.h. */
void changes_words(const struct changes *c, uint32_t i, char words[CONFIG_WORDS_MAX]);
/* Sends a worker that starts the first module from i on that is there, or `last` behind them. */
void changes_send(const struct changes *c, int to, uint32_t i, enum control_kind last);
/* It has loaded what m names: its canary is sent, where it has one, or the next module. */
void changes_loaded(const struct changes *c, int to, const struct control *m,
                    enum control_kind last);
/* Compiles a module anew whose cached code does not fit; once. why: why not. */
bool changes_anew(struct changes *c, uint32_t i, struct buf *why);
/* Forgets a module that was added, as a worker that starts refused it. */
void changes_drop(struct changes *c, uint32_t i);
void changes_error(const struct changes *c, uint32_t i, struct slice why);

void changes_worker(struct changes *c, int control); /* one serves; -1: it has gone */
void changes_message(struct changes *c, const struct control *m);
void changes_reload(struct changes *c);
void changes_upgrade(struct changes *c);
void changes_child(struct changes *c); /* a child has ended, perhaps weirc */
void changes_timer(struct changes *c);
void changes_stop(struct changes *c);
void changes_done(struct changes *c);

/* The end of a hand-over: nothing has changed; or another worker serves, and `c` is done with. */
void changes_handover_failed(struct changes *c, struct slice why);
void changes_handover_done(struct changes *c);
void changes_resume(struct changes *c, int worker); /* an upgrade goes on, in the new program */
/* Modules that are the same in `old` keep their versions: what was PUT stays in force. When `c` is
 * in force, changes_carried; before that, `old` is as it was. */
void changes_carry(struct changes *c, const struct changes *old);
void changes_carried(struct changes *c, struct changes *old);

#endif
