#include "fakehost.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Slots of tasks, and places in the queue. */
#define SLOTS 32768

/* What is linked in with these names; weak, as it is not a part of this package. */
#pragma weak nbffi_plugin_entry
#pragma weak nbffi_go_entry
const nbffi_plugin *nbffi_go_entry(uint32_t host_abi_version);

enum { FREE, QUEUED, RUNNING, DONE };

typedef struct {
    uint32_t         generation;
    int              state;
    uint64_t         deadline;
    int              cancelled;
    nbffi_cancel_fn  on_cancel;
    void            *on_cancel_arg;
    char            *req;
    uint64_t         len;
    fakehost_result  result;
} slot;

struct fakehost {
    nbffi_host           table;     /* the first: what plugins are given */
    const nbffi_plugin  *plugin;
    void                *state;
    char                 name[64];
    char                *config;
    pthread_mutex_t      lock;
    pthread_cond_t       posted, ended;
    slot                *slots;
    uint32_t             queue[SLOTS];
    uint64_t             head, tail;
    uint32_t             used;
    int                  stopping, threads;
    pthread_t            ids[16];
    char                *log;
    size_t               log_len;
    uint64_t             stale;
    /* fakehost_bench */
    atomic_ullong        bench_done;
    uint64_t             bench_left, bench_next, bench_len;
    char                *bench_req;
};

/* Tasks of fakehost_bench have handles from here on; they are only counted. */
#define BENCH (1ull << 63)

/* Host functions of a task do not get the host; a task knows it. One host at a
 * time is enough for tests, but for two runtimes there are two. */
#define HOSTS 8
static fakehost *hosts[HOSTS];
static pthread_mutex_t hosts_lock = PTHREAD_MUTEX_INITIALIZER;

/* A handle: the host's number, the slot's, its generation. */
static nbffi_task
handle_of(fakehost *host, uint32_t index)
{
    uint64_t number;

    for (number = 0; hosts[number] != host; number++) { /* is there */ }
    return (number + 1) << 56 | (uint64_t) index << 32
           | host->slots[index].generation;
}

static fakehost *
host_of(nbffi_task task)
{
    return hosts[((task >> 56) & 0x7f) - 1];
}

static slot *
slot_of(fakehost *host, nbffi_task task)
{
    return &host->slots[(task >> 32) & (SLOTS - 1)];
}

static uint64_t
now_ns(void)
{
    struct timespec  now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

static char *
copy_of(const char *data, uint64_t len)
{
    char *copy = malloc(len + 1);

    if (len > 0) {
        memcpy(copy, data, len);
    }
    copy[len] = '\0';
    return copy;
}

/* ---- host functions ---- */

static void
host_log(const nbffi_host *table, int level, const char *msg, uint64_t len)
{
    fakehost  *host = (fakehost *) table;
    char       head[96];
    int        n = snprintf(head, sizeof(head), "%d %s: ", level, host->name);

    pthread_mutex_lock(&host->lock);
    host->log = realloc(host->log, host->log_len + (size_t) n + len + 2);
    memcpy(host->log + host->log_len, head, (size_t) n);
    memcpy(host->log + host->log_len + n, msg, len);
    host->log_len += (size_t) n + len;
    host->log[host->log_len++] = '\n';
    host->log[host->log_len] = '\0';
    pthread_mutex_unlock(&host->lock);
}

static const char *
host_config(const nbffi_host *table, uint64_t *len)
{
    const fakehost *host = (const fakehost *) table;

    if (len != NULL) {
        *len = strlen(host->config);
    }
    return host->config;
}

static const char *
host_name(const nbffi_host *table, uint64_t *len)
{
    const fakehost *host = (const fakehost *) table;

    if (len != NULL) {
        *len = strlen(host->name);
    }
    return host->name;
}

static uint64_t
host_deadline(nbffi_task task)
{
    fakehost  *host = host_of(task);
    slot      *slot = slot_of(host, task);
    uint64_t   deadline = 0;

    pthread_mutex_lock(&host->lock);
    if (slot->generation == (uint32_t) task && slot->state == RUNNING) {
        deadline = slot->deadline;
    }
    pthread_mutex_unlock(&host->lock);
    return deadline;
}

static int
host_cancelled(nbffi_task task)
{
    fakehost  *host = host_of(task);
    slot      *slot = slot_of(host, task);
    int        cancelled = 1;

    pthread_mutex_lock(&host->lock);
    if (slot->generation == (uint32_t) task && slot->state == RUNNING) {
        cancelled = slot->cancelled;
    }
    pthread_mutex_unlock(&host->lock);
    return cancelled;
}

/* Completes a task; what is handed over is the slot's, or freed. */
static int
complete(nbffi_task task, int failed, int64_t code, char *data, uint64_t len,
         char *message)
{
    fakehost  *host = host_of(task);
    slot      *slot = slot_of(host, task);

    pthread_mutex_lock(&host->lock);
    if (slot->generation != (uint32_t) task || slot->state != RUNNING) {
        host->stale++;
        pthread_mutex_unlock(&host->lock);
        free(data);
        free(message);
        return NBFFI_STALE;
    }
    slot->result.failed = failed;
    slot->result.data = data;
    slot->result.len = len;
    if (message != NULL) {
        slot->result.code = code;
        slot->result.message = message;
    }
    slot->state = DONE;
    /* From now on the request is nobody's: who reads it shall notice. */
    memset(slot->req, 0xdd, slot->len);
    free(slot->req);
    pthread_cond_broadcast(&host->ended);
    pthread_mutex_unlock(&host->lock);
    return NBFFI_OK;
}

static int
host_respond(nbffi_task task, const void *data, uint64_t len)
{
    if (task & BENCH) {
        atomic_fetch_add(&hosts[0]->bench_done, 1);
        return NBFFI_OK;
    }
    return complete(task, 0, 0, copy_of(data, len), len, NULL);
}

static int
host_fail(nbffi_task task, int64_t code, const char *msg, uint64_t len)
{
    return complete(task, 1, code, NULL, 0, copy_of(msg, len));
}

static int
host_set_status(nbffi_task task, int64_t code, const char *msg, uint64_t len)
{
    fakehost  *host = host_of(task);
    slot      *slot = slot_of(host, task);
    int        rc = NBFFI_STALE;

    pthread_mutex_lock(&host->lock);
    if (slot->generation == (uint32_t) task && slot->state == RUNNING) {
        free(slot->result.message);
        slot->result.code = code;
        slot->result.message = copy_of(msg, len);
        rc = NBFFI_OK;
    }
    pthread_mutex_unlock(&host->lock);
    return rc;
}

static int
host_on_cancel(nbffi_task task, nbffi_cancel_fn fn, void *arg)
{
    fakehost  *host = host_of(task);
    slot      *slot = slot_of(host, task);
    int        rc = NBFFI_STALE, cancelled = 0;

    pthread_mutex_lock(&host->lock);
    if (slot->generation == (uint32_t) task && slot->state == RUNNING) {
        cancelled = slot->cancelled;
        slot->on_cancel = fn;
        slot->on_cancel_arg = arg;
        rc = NBFFI_OK;
    }
    pthread_mutex_unlock(&host->lock);
    if (cancelled) {
        fn(arg, task);
    }
    return rc;
}

static int
host_at_exit(const nbffi_host *host, nbffi_exit_fn fn, void *arg)
{
    (void) host;
    (void) fn;
    (void) arg;
    return NBFFI_OK;
}

/* With the lock: the next task, if there is one. */
static slot *
take(fakehost *host, nbffi_task *task)
{
    slot *slot;

    if (host->head == host->tail) {
        return NULL;
    }
    uint32_t index = host->queue[host->head++ % SLOTS];
    slot = &host->slots[index];
    slot->state = RUNNING;
    *task = handle_of(host, index);
    return slot;
}

static int
host_next(const nbffi_host *table, nbffi_task *task, const void **req,
          uint64_t *len)
{
    fakehost  *host = (fakehost *) table;
    slot      *slot;

    if (host->bench_req != NULL) {
        if (host->bench_left == 0) {
            return 0;
        }
        host->bench_left--;
        *task = BENCH | host->bench_next++;
        *req = host->bench_req;
        *len = host->bench_len;
        return 1;
    }
    pthread_mutex_lock(&host->lock);
    slot = take(host, task);
    if (slot != NULL) {
        *req = slot->req;
        *len = slot->len;
    }
    pthread_mutex_unlock(&host->lock);
    return slot != NULL;
}

/* With the lock: waits until there is a task, or the host is closing. */
static void
await_task(fakehost *host)
{
    while (host->head == host->tail && !host->stopping) {
        pthread_cond_wait(&host->posted, &host->lock);
    }
}

static int
host_await_next(const nbffi_host *table, nbffi_task *task, const void **req,
                uint64_t *len)
{
    fakehost *host = (fakehost *) table;

    if (host->bench_req == NULL) {
        pthread_mutex_lock(&host->lock);
        await_task(host);
        pthread_mutex_unlock(&host->lock);
    }
    return host_next(table, task, req, len);
}

/* ---- threads ---- */

static pthread_t
start(void *(*body)(void *), void *arg)
{
    pthread_t  thread;

    pthread_create(&thread, NULL, body, arg);
    return thread;
}

static __thread int on_pool_thread;

static void *
pool_thread(void *arg)
{
    fakehost    *host = arg;
    nbffi_task   task;
    slot        *slot;

    on_pool_thread = 1;
    pthread_mutex_lock(&host->lock);
    for ( ;; ) {
        await_task(host);
        slot = take(host, &task);
        if (slot == NULL) {
            break;
        }
        const void  *req = slot->req;
        uint64_t     len = slot->len;
        pthread_mutex_unlock(&host->lock);
        if (host->plugin->call(host->state, task, req, len) != 0) {
            abort();            /* it never refuses a task */
        }
        pthread_mutex_lock(&host->lock);
    }
    pthread_mutex_unlock(&host->lock);
    return NULL;
}

typedef struct {
    fakehost    *host;
    const char  *entry;
    char        *err;
    uint64_t     size;
    int          rc;
} loading;

static void *
load_thread(void *arg)
{
    loading   *l = arg;
    fakehost  *host = l->host;

    host->plugin = strcmp(l->entry, "nbffi_go_entry") == 0
                   ? nbffi_go_entry(host->table.abi_version)
                   : nbffi_plugin_entry(host->table.abi_version);
    l->rc = host->plugin->init(&host->table, &host->state, l->err, l->size);
    return NULL;
}

static void *
close_thread(void *arg)
{
    fakehost *host = arg;

    host->plugin->close(host->state);
    return NULL;
}

typedef struct {
    fakehost  *host;
    uint64_t   tasks, batch, ns;
} measuring;

static void *
bench_thread(void *arg)
{
    measuring  *m = arg;
    fakehost   *host = m->host;
    uint64_t    began = now_ns(), left = m->tasks;

    while (left > 0) {
        uint64_t batch = left < m->batch ? left : m->batch;

        host->bench_left = batch - 1;
        host->plugin->call(host->state, BENCH | host->bench_next++,
                           host->bench_req, host->bench_len);
        left -= batch;
    }
    while (atomic_load(&host->bench_done) < m->tasks) {
        sched_yield();
    }
    m->ns = now_ns() - began;
    return NULL;
}

/* ---- what tests call ---- */

fakehost *
fakehost_new(const char *name, const char *config, int minor, int threads)
{
    fakehost  *host = calloc(1, sizeof(fakehost));
    int        i;

    host->table.abi_version = (uint32_t) NBFFI_ABI_MAJOR << 16
                              | (uint32_t) minor;
    host->table.size = minor == 0   ? offsetof(nbffi_host, next)
                       : minor == 1 ? offsetof(nbffi_host, await_next)
                       : minor == 2 ? offsetof(nbffi_host, at_exit)
                                    : sizeof(nbffi_host);
    host->table.log = host_log;
    host->table.config = host_config;
    host->table.name = host_name;
    host->table.deadline_ns = host_deadline;
    host->table.is_cancelled = host_cancelled;
    host->table.respond = host_respond;
    host->table.fail = host_fail;
    host->table.set_status = host_set_status;
    if (minor > 0) {
        host->table.next = host_next;
    }
    if (minor > 1) {
        host->table.await_next = host_await_next;
    }
    if (minor > 2) {
        host->table.at_exit = host_at_exit;
        host->table.on_cancel = host_on_cancel;
    }
    snprintf(host->name, sizeof(host->name), "%s", name);
    host->config = copy_of(config, strlen(config));
    pthread_mutex_init(&host->lock, NULL);
    pthread_cond_init(&host->posted, NULL);
    pthread_cond_init(&host->ended, NULL);
    host->slots = calloc(SLOTS, sizeof(slot));
    host->threads = threads;
    pthread_mutex_lock(&hosts_lock);
    for (i = 0; i < HOSTS && hosts[i] != NULL; i++) { /* taken */ }
    if (i == HOSTS) {
        abort();
    }
    hosts[i] = host;
    pthread_mutex_unlock(&hosts_lock);
    return host;
}

int
fakehost_load(fakehost *host, const char *entry, char *err, uint64_t size)
{
    loading  l = { host, entry, err, size, 0 };
    int      i;

    pthread_join(start(load_thread, &l), NULL);
    for (i = 0; l.rc == 0 && i < host->threads; i++) {
        host->ids[i] = start(pool_thread, host);
    }
    return l.rc;
}

nbffi_task
fakehost_post(fakehost *host, const char *data, uint64_t len,
              uint64_t deadline_ns)
{
    slot        *slot;
    nbffi_task   task;

    pthread_mutex_lock(&host->lock);
    do {
        slot = &host->slots[host->used++ % SLOTS];
    } while (slot->state != FREE);
    slot->generation++;
    slot->state = QUEUED;
    slot->deadline = deadline_ns;
    slot->cancelled = 0;
    slot->on_cancel = NULL;
    slot->req = copy_of(data, len);
    slot->len = len;
    memset(&slot->result, 0, sizeof(slot->result));
    task = handle_of(host, (uint32_t) (slot - host->slots));
    host->queue[host->tail++ % SLOTS] = (uint32_t) (slot - host->slots);
    pthread_cond_signal(&host->posted);
    pthread_mutex_unlock(&host->lock);
    return task;
}

void
fakehost_wait(fakehost *host, nbffi_task task, fakehost_result *result)
{
    slot *slot = slot_of(host, task);

    pthread_mutex_lock(&host->lock);
    while (slot->state != DONE) {
        pthread_cond_wait(&host->ended, &host->lock);
    }
    *result = slot->result;
    slot->state = FREE;
    pthread_mutex_unlock(&host->lock);
}

void
fakehost_cancel(fakehost *host, nbffi_task task)
{
    slot             *slot = slot_of(host, task);
    nbffi_cancel_fn   fn;

    pthread_mutex_lock(&host->lock);
    slot->cancelled = 1;
    fn = slot->state == RUNNING ? slot->on_cancel : NULL;
    pthread_mutex_unlock(&host->lock);
    if (fn != NULL) {
        fn(slot->on_cancel_arg, task);
    }
}

void
fakehost_close(fakehost *host)
{
    int i;

    pthread_mutex_lock(&host->lock);
    host->stopping = 1;
    pthread_cond_broadcast(&host->posted);
    pthread_mutex_unlock(&host->lock);
    for (i = 0; i < host->threads; i++) {
        pthread_join(host->ids[i], NULL);
    }
    pthread_join(start(close_thread, host), NULL);
}

void
fakehost_free(fakehost *host)
{
    int i;

    pthread_mutex_lock(&hosts_lock);
    for (i = 0; i < HOSTS; i++) {
        if (hosts[i] == host) {
            hosts[i] = NULL;
        }
    }
    pthread_mutex_unlock(&hosts_lock);
    free(host->config);
    free(host->slots);
    free(host->log);
    memset(host, 0xdd, sizeof(fakehost));
    free(host);
}

char *
fakehost_log(fakehost *host)
{
    char *log;

    pthread_mutex_lock(&host->lock);
    log = host->log != NULL ? host->log : copy_of("", 0);
    host->log = NULL;
    host->log_len = 0;
    pthread_mutex_unlock(&host->lock);
    return log;
}

uint64_t
fakehost_stale(fakehost *host)
{
    uint64_t stale;

    pthread_mutex_lock(&host->lock);
    stale = host->stale;
    pthread_mutex_unlock(&host->lock);
    return stale;
}

uint64_t
fakehost_bench(fakehost *host, uint64_t tasks, uint64_t batch, uint64_t len)
{
    measuring m = { host, tasks, batch, 0 };

    host->bench_req = calloc(1, len + 1);
    host->bench_len = len;
    host->bench_done = 0;
    pthread_join(start(bench_thread, &m), NULL);
    free(host->bench_req);
    host->bench_req = NULL;
    return m.ns;
}

uint64_t
fakehost_now(void)
{
    return now_ns();
}

int
fakehost_on_pool_thread(void)
{
    return on_pool_thread;
}
