#include "fakehost.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_cgo_export.h"

/* What is linked in with these names; weak, as it is not a part of this package. */
#pragma weak nbffi_plugin_entry
#pragma weak nbffi_go_entry
const nbffi_plugin *nbffi_go_entry(uint32_t host_abi_version);

/* Tasks of fakehost_bench have handles from here on; they are only counted. */
#define BENCH (1ull << 63)
static fakehost *benched;

/* ---- host functions ---- */

static void
host_log(const nbffi_host *host, int level, const char *msg, uint64_t len)
{
    fakehostLog((fakehost *) host, level, (char *) msg, len);
}

static const char *
text(const char *string, uint64_t *len)
{
    if (len != NULL) {
        *len = strlen(string);
    }
    return string;
}

static const char *
host_config(const nbffi_host *host, uint64_t *len)
{
    return text(((const fakehost *) host)->config, len);
}

static const char *
host_name(const nbffi_host *host, uint64_t *len)
{
    return text(((const fakehost *) host)->name, len);
}

static int
host_respond(nbffi_task task, const void *data, uint64_t len)
{
    if (task & BENCH) {
        __atomic_fetch_add(&benched->bench_done, 1, __ATOMIC_SEQ_CST);
        return NBFFI_OK;
    }
    return fakehostRespond(task, (void *) data, len);
}

static int
host_fail(nbffi_task task, int64_t code, const char *msg, uint64_t len)
{
    return fakehostFail(task, code, (char *) msg, len);
}

static int
host_set_status(nbffi_task task, int64_t code, const char *msg, uint64_t len)
{
    return fakehostSetStatus(task, code, (char *) msg, len);
}

static int
host_next(const nbffi_host *table, nbffi_task *task, const void **req, uint64_t *len)
{
    fakehost *host = (fakehost *) table;

    if (host->bench_req == NULL) {
        return fakehostTake(host, 0, task, (void **) req, len);
    }
    if (host->bench_left == 0) {
        return 0;
    }
    host->bench_left--;
    *task = BENCH | host->bench_next++;
    *req = host->bench_req;
    *len = host->bench_len;
    return 1;
}

static int
host_await_next(const nbffi_host *table, nbffi_task *task, const void **req,
                uint64_t *len)
{
    fakehost *host = (fakehost *) table;

    if (host->bench_req != NULL) {
        return host_next(table, task, req, len);
    }
    return fakehostTake(host, 1, task, (void **) req, len);
}

static int
host_at_exit(const nbffi_host *host, nbffi_exit_fn fn, void *arg)
{
    (void) host;
    (void) fn;
    (void) arg;
    return NBFFI_OK;
}

fakehost *
fakehost_new(char *name, char *config, int minor)
{
    static const nbffi_host  newest = {
        .log = host_log, .config = host_config, .name = host_name,
        .deadline_ns = fakehostDeadline, .is_cancelled = fakehostIsCancelled,
        .respond = host_respond, .fail = host_fail, .set_status = host_set_status,
        .next = host_next, .await_next = host_await_next, .at_exit = host_at_exit,
        .on_cancel = fakehostOnCancel,
    };
    static const uint64_t    sizes[] = {
        offsetof(nbffi_host, next), offsetof(nbffi_host, await_next),
        offsetof(nbffi_host, at_exit), sizeof(nbffi_host),
    };
    fakehost                *host = calloc(1, sizeof(fakehost));

    memcpy(&host->table, &newest, sizes[minor]);
    host->table.abi_version = (uint32_t) NBFFI_ABI_MAJOR << 16 | (uint32_t) minor;
    host->table.size = sizes[minor];
    host->name = name;
    host->config = config;
    return host;
}

void
fakehost_free(fakehost *host)
{
    free(host->name);
    free(host->config);
    memset(host, 0xdd, sizeof(fakehost));
    free(host);
}

/* ---- threads ---- */

static pthread_t
start(void *(*body)(void *), void *arg)
{
    pthread_t  thread;

    pthread_create(&thread, NULL, body, arg);
    return thread;
}

typedef struct {
    fakehost  *host;
    int        framed;
    char      *err;
    uint64_t   size;
    int        rc;
} loading;

static void *
load_thread(void *arg)
{
    loading   *l = arg;
    fakehost  *host = l->host;

    host->plugin = l->framed ? nbffi_go_entry(host->table.abi_version)
                             : nbffi_plugin_entry(host->table.abi_version);
    l->rc = host->plugin->init(&host->table, &host->state, l->err, l->size);
    return NULL;
}

int
fakehost_load(fakehost *host, int framed, char *err, uint64_t size)
{
    loading l = { host, framed, err, size, 0 };

    pthread_join(start(load_thread, &l), NULL);
    return l.rc;
}

static __thread int on_pool_thread;

int
fakehost_on_pool_thread(void)
{
    return on_pool_thread;
}

static void *
pool_thread(void *arg)
{
    fakehost    *host = arg;
    nbffi_task   task;
    void        *req;
    uint64_t     len;

    on_pool_thread = 1;
    while (fakehostTake(host, 1, &task, &req, &len)) {
        if (host->plugin->call(host->state, task, req, len) != 0) {
            abort();            /* it never refuses a task */
        }
    }
    return NULL;
}

pthread_t
fakehost_start(fakehost *host)
{
    return start(pool_thread, host);
}

static void *
close_thread(void *arg)
{
    fakehost *host = arg;

    host->plugin->close(host->state);
    return NULL;
}

void
fakehost_close(fakehost *host)
{
    pthread_join(start(close_thread, host), NULL);
}

void
fakehost_tell(nbffi_cancel_fn fn, void *arg, nbffi_task task)
{
    fn(arg, task);
}

typedef struct {
    fakehost  *host;
    uint64_t   tasks, batch;
} measuring;

static void *
bench_thread(void *arg)
{
    measuring  *m = arg;
    fakehost   *host = m->host;
    uint64_t    left = m->tasks;

    while (left > 0) {
        uint64_t batch = left < m->batch ? left : m->batch;

        host->bench_left = batch - 1;
        host->plugin->call(host->state, BENCH | host->bench_next++,
                           host->bench_req, host->bench_len);
        left -= batch;
    }
    while (__atomic_load_n(&host->bench_done, __ATOMIC_SEQ_CST) < m->tasks) {
        sched_yield();
    }
    return NULL;
}

void
fakehost_bench(fakehost *host, uint64_t tasks, uint64_t batch, uint64_t len)
{
    measuring m = { host, tasks, batch };

    benched = host;
    host->bench_req = calloc(1, len + 1);
    host->bench_len = len;
    host->bench_done = 0;
    pthread_join(start(bench_thread, &m), NULL);
    free(host->bench_req);
    host->bench_req = NULL;
}

uint64_t
fakehost_now(void)
{
    struct timespec  now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}
