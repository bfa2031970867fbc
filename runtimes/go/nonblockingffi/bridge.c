/* The plugin ABI; see bridge.h. */
#include "bridge.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "_cgo_export.h"

/* The first version: the functions of later ones are looked for. */
#define NBFFI_GO_ABI_VERSION ((uint32_t) NBFFI_ABI_MAJOR << 16)

static struct sigaction sigpipe;

/* With a priority, so that it runs before the constructor that starts Go's
 * runtime, which takes the signal. */
__attribute__((constructor(101))) static void
remember_signals(void)
{
    sigaction(SIGPIPE, NULL, &sigpipe);
}

int
nbffi_go_sigpipe_is_harmless(void)
{
    return sigpipe.sa_handler != SIG_DFL;
}

void
nbffi_go_give_sigpipe_back(void)
{
    sigaction(SIGPIPE, &sigpipe, NULL);
}

static uint64_t
clock_ns(clockid_t clock)
{
    struct timespec  now;

    clock_gettime(clock, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

/* Hosts of version 1.0 have none of the functions that came later. */
#define HAS(host, function) \
    ((host)->size >= offsetof(nbffi_host, function) + sizeof((host)->function))

static int
next_into(nbffi_go_batch *batch, nbffi_go_task *to)
{
    const nbffi_host *host = batch->host;

    return HAS(host, next) && host->next(host, &to->task, &to->req, &to->len);
}

/* Whether some milliseconds have passed since it was so last. The coarse clock
 * is several times cheaper than the other. */
static int
is_long(nbffi_go_batch *batch)
{
    uint64_t tick = clock_ns(CLOCK_MONOTONIC_COARSE);

    if (tick == batch->tick_ns) {
        return 0;
    }
    batch->tick_ns = tick;
    return 1;
}

static int
next_or_leave(nbffi_go_batch *batch)
{
    int is_next = next_into(batch, &batch->tasks[0]);

    if (is_next && !is_long(batch)) {
        return NBFFI_GO_NEXT;
    }
    batch->now_ns = clock_ns(CLOCK_MONOTONIC);
    return is_next ? NBFFI_GO_LONG : NBFFI_GO_OVER;
}

int
nbffi_go_respond_next(nbffi_go_batch *batch, const char *data, uint64_t len)
{
    batch->host->respond(batch->tasks[0].task, data, len);
    return next_or_leave(batch);
}

int
nbffi_go_fail_next(nbffi_go_batch *batch, int64_t code, const char *msg,
                   uint64_t len)
{
    batch->host->fail(batch->tasks[0].task, code, msg, len);
    return next_or_leave(batch);
}

int
nbffi_go_take(nbffi_go_batch *batch)
{
    int count = 0;

    while (count < NBFFI_GO_TASKS && next_into(batch, &batch->tasks[count])) {
        count++;
    }
    return count;
}

int
nbffi_go_await(nbffi_go_batch *batch)
{
    const nbffi_host  *host = batch->host;
    nbffi_go_task     *to = &batch->tasks[0];

    if (!HAS(host, await_next)
        || !host->await_next(host, &to->task, &to->req, &to->len))
    {
        return NBFFI_GO_OVER;
    }
    batch->since_ns = clock_ns(CLOCK_MONOTONIC);
    return is_long(batch) ? NBFFI_GO_LONG : NBFFI_GO_NEXT;
}

void
nbffi_go_respond(const nbffi_host *host, nbffi_task task, const char *data,
                 uint64_t len)
{
    host->respond(task, data, len);
}

void
nbffi_go_fail(const nbffi_host *host, nbffi_task task, int64_t code,
              const char *msg, uint64_t len)
{
    host->fail(task, code, msg, len);
}

void
nbffi_go_set_status(const nbffi_host *host, nbffi_task task, int64_t code,
                    const char *msg, uint64_t len)
{
    host->set_status(task, code, msg, len);
}

void
nbffi_go_log(const nbffi_host *host, int level, const char *msg, uint64_t len)
{
    host->log(host, level, msg, len);
}

const char *
nbffi_go_config(const nbffi_host *host, uint64_t *len)
{
    return host->config(host, len);
}

const char *
nbffi_go_name(const nbffi_host *host, uint64_t *len)
{
    return host->name(host, len);
}

int64_t
nbffi_go_remaining(const nbffi_host *host, nbffi_task task)
{
    uint64_t now, deadline = host->deadline_ns(task);

    if (deadline == NBFFI_NO_DEADLINE) {
        return NBFFI_GO_NO_DEADLINE;
    }
    now = clock_ns(CLOCK_MONOTONIC);
    if (deadline < now) {
        return -(int64_t) (now - deadline);
    }
    return deadline - now < INT64_MAX ? (int64_t) (deadline - now)
                                      : NBFFI_GO_NO_DEADLINE;
}

int
nbffi_go_is_cancelled(const nbffi_host *host, nbffi_task task)
{
    return host->is_cancelled(task);
}

static int         cancellations = -1;
static atomic_int  cancellations_lost;

void
nbffi_go_cancellations(int pipe)
{
    cancellations = pipe;
}

int
nbffi_go_cancellations_lost(void)
{
    return atomic_exchange(&cancellations_lost, 0);
}

/* On the host's thread: it must not wait, so it does not enter Go. If the pipe is
 * full, its reader looks at all tasks. It may have read all of it before it is told
 * so: the second write wakes it then. */
static void
cancelled(void *arg, nbffi_task task)
{
    int attempt;

    (void) arg;
    for (attempt = 0; attempt < 2; attempt++) {
        if (write(cancellations, &task, sizeof(task)) == sizeof(task)) {
            return;
        }
        atomic_store(&cancellations_lost, 1);
    }
}

int
nbffi_go_on_cancel(const nbffi_host *host, nbffi_task task)
{
    int rc;

    if (!HAS(host, on_cancel) || cancellations < 0) {
        return 0;
    }
    rc = host->on_cancel(task, cancelled, NULL);
    return rc == NBFFI_OK || rc == NBFFI_STALE;
}

typedef struct {
    const nbffi_host  *host;
    uint64_t           instance;
} runtime;

static void
end(void *arg, uint64_t deadline_ns)
{
    (void) arg;
    nbffiGoExit((int64_t) deadline_ns - (int64_t) clock_ns(CLOCK_MONOTONIC));
}

static int
init(const nbffi_host *host, int framed, void **state, char *err,
     uint64_t err_size)
{
    runtime *rt = malloc(sizeof(runtime));

    if (rt == NULL) {
        return 1;
    }
    rt->host = host;
    if (HAS(host, at_exit)) {
        /* The same each time: the host takes it once. */
        host->at_exit(host, end, NULL);
    }
    rt->instance = nbffiGoInit((nbffi_host *) host, framed, err, err_size);
    if (rt->instance == 0) {
        free(rt);
        return 1;
    }
    *state = rt;
    return 0;
}

static int
init_plain(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    return init(host, 0, state, err, err_size);
}

static int
init_framed(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    return init(host, 1, state, err, err_size);
}

static int
call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    const runtime   *rt = state;
    nbffi_go_batch   batch;

    batch.host = rt->host;
    batch.instance = rt->instance;
    batch.since_ns = clock_ns(CLOCK_MONOTONIC);
    batch.tick_ns = clock_ns(CLOCK_MONOTONIC_COARSE);
    batch.tasks[0].task = task;
    batch.tasks[0].req = req;
    batch.tasks[0].len = len;
    nbffiGoServe(&batch);
    return 0;
}

static void
close_runtime(void *state)
{
    runtime *rt = state;

    nbffiGoClose(rt->instance);
    free(rt);
}

static const nbffi_plugin plain = {
    NBFFI_GO_ABI_VERSION, sizeof(nbffi_plugin), NBFFI_ASYNC, 0,
    init_plain, call, close_runtime
};

static const nbffi_plugin framed = {
    NBFFI_GO_ABI_VERSION, sizeof(nbffi_plugin), NBFFI_ASYNC, 0,
    init_framed, call, close_runtime
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;        /* the host compares versions */
    return &plain;
}

const nbffi_plugin *
nbffi_go_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &framed;
}
