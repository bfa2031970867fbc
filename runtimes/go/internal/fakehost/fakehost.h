/* A host of plugins, for tests: what nginx's worker is to the Go side. */
#ifndef FAKEHOST_H
#define FAKEHOST_H

#include "../../nonblockingffi/nonblocking_ffi.h"

typedef struct fakehost fakehost;

/* How a task ended. */
typedef struct {
    int       failed;       /* by fail */
    int64_t   code;
    char     *data;         /* the response, malloc'ed */
    uint64_t  len;
    char     *message;      /* of fail or set_status, malloc'ed, terminated */
} fakehost_result;

/* A host of ABI version 1.`minor` with a pool of so many threads. */
fakehost *fakehost_new(const char *name, const char *config, int minor,
                       int threads);

/* Runs entry and init on a thread of its own, as the host does. `entry` is
 * "nbffi_plugin_entry" or "nbffi_go_entry". 0, or the message is in err. */
int fakehost_load(fakehost *host, const char *entry, char *err, uint64_t size);

/* Posts a task; deadline_ns of CLOCK_MONOTONIC. */
nbffi_task fakehost_post(fakehost *host, const char *data, uint64_t len,
                         uint64_t deadline_ns);
/* Waits until it has ended. Once for each task. */
void fakehost_wait(fakehost *host, nbffi_task task, fakehost_result *result);
void fakehost_cancel(fakehost *host, nbffi_task task);

/* Ends the runtime: close, on a thread of its own, after all tasks. */
void fakehost_close(fakehost *host);
/* After it, or if load has failed: overwrites what plugins must not use any
 * more. */
void fakehost_free(fakehost *host);

/* What was logged since the last time, one line for each, malloc'ed. */
char *fakehost_log(fakehost *host);
/* Second completions that were refused. */
uint64_t fakehost_stale(fakehost *host);

/* Has one thread run so many tasks with a request of so many bytes, no more than
 * `batch` in one call; waits for all responses. Nanoseconds in all. */
uint64_t fakehost_bench(fakehost *host, uint64_t tasks, uint64_t batch,
                        uint64_t len);

/* Whether the caller is on a thread of a pool. */
int fakehost_on_pool_thread(void);

/* CLOCK_MONOTONIC. */
uint64_t fakehost_now(void);

#endif /* FAKEHOST_H */
