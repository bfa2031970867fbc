/* A host of plugins, for tests: what nginx's worker is to the Go side. Here are its
 * threads and the table of its functions; tasks are in fakehost.go. */
#ifndef FAKEHOST_H
#define FAKEHOST_H

#include "../../nonblockingffi/nonblocking_ffi.h"

#include <pthread.h>

typedef struct {
    nbffi_host           table;     /* the first: what plugins are given */
    const nbffi_plugin  *plugin;
    void                *state;
    char                *name, *config;
    /* fakehost_bench */
    uint64_t             bench_done, bench_left, bench_next, bench_len;
    char                *bench_req;
} fakehost;

/* A host of ABI version 1.`minor`; it owns name and config. */
fakehost *fakehost_new(char *name, char *config, int minor);

/* Overwrites what plugins must not use any more, and frees it. */
void fakehost_free(fakehost *host);

/* Runs the entry and init on a thread of its own, as the host does. 0, or the message
 * is in err. */
int fakehost_load(fakehost *host, int framed, char *err, uint64_t size);

/* Starts a pool thread. */
pthread_t fakehost_start(fakehost *host);

/* Closes the runtime, on a thread of its own. */
void fakehost_close(fakehost *host);

/* Calls what was given to on_cancel. */
void fakehost_tell(nbffi_cancel_fn fn, void *arg, nbffi_task task);

/* Has one thread run so many tasks with a request of so many bytes, no more than
 * `batch` in one call; waits for all responses. */
void fakehost_bench(fakehost *host, uint64_t tasks, uint64_t batch, uint64_t len);

/* Whether the caller is on a thread of a pool. */
int fakehost_on_pool_thread(void);

/* CLOCK_MONOTONIC, in nanoseconds. */
uint64_t fakehost_now(void);

#endif /* FAKEHOST_H */
