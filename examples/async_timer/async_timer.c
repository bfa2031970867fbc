/*
 * async_timer - answers after a while: "250 tea" is answered "tea" after 250 ms.
 *
 * An asynchronous plugin with one thread of its own, which init starts and
 * close joins. call puts the task into a heap and returns; so a pool thread is
 * busy for a microsecond per task, and any number of tasks can wait at a time.
 *
 *     pool threads            the timer's thread
 *     call: push, wake  --->  pop what is due, respond
 *
 * The thread sleeps until the first task in the heap is due. A task that nobody
 * waits for any more is completed at once: on_cancel says so. What the heap has of
 * it is dropped when it is due, or when there is no room for another one.
 *
 * The payload is never copied here: the request stays readable until the task
 * is completed.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nonblocking_ffi.h"

#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL

/* The longest delay, in ms: a day. */
#define MAX_MS 86400000ULL

/* How many tasks the thread takes out of the heap at a time. */
#define BATCH 64

/* Codes of fail. */
#define BAD_REQUEST 400
#define CANCELLED 499
#define NO_MEMORY 500
#define CLOSED 503

typedef struct {
    uint64_t     due;           /* when it is answered, CLOCK_MONOTONIC ns */
    uint64_t     seq;           /* ties are answered in order of arrival */
    nbffi_task   task;
    const char  *payload;       /* in the request */
    uint64_t     len;
} entry;

typedef struct {
    const nbffi_host  *host;
    pthread_t          thread;
    pthread_mutex_t    lock;    /* guards what follows */
    pthread_cond_t     changed; /* the first entry is another one, or stop */
    int                stop;
    uint64_t           seq;
    entry             *heap;    /* binary, the soonest first */
    size_t             used;
    size_t             allocated;
} timer;

static uint64_t
now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * NS_PER_S + (uint64_t) ts.tv_nsec;
}

static int
sooner(const entry *a, const entry *b)
{
    return a->due != b->due ? a->due < b->due : a->seq < b->seq;
}

/* Puts e into the hole i, or above it. */
static void
sift_up(entry *heap, size_t i, entry e)
{
    size_t parent;

    for ( /* void */ ; i > 0; i = parent) {
        parent = (i - 1) / 2;
        if (!sooner(&e, &heap[parent])) {
            break;
        }
        heap[i] = heap[parent];
    }
    heap[i] = e;
}

/* Puts e into the hole i, or below it. */
static void
sift_down(entry *heap, size_t used, size_t i, entry e)
{
    size_t child;

    for ( /* void */ ; (child = 2 * i + 1) < used; i = child) {
        if (child + 1 < used && sooner(&heap[child + 1], &heap[child])) {
            child++;
        }
        if (!sooner(&heap[child], &e)) {
            break;
        }
        heap[i] = heap[child];
    }
    heap[i] = e;
}

static entry
pop(timer *t)
{
    entry first = t->heap[0];

    t->used--;
    sift_down(t->heap, t->used, 0, t->heap[t->used]);
    return first;
}

/* Drops what has been completed already. */
static void
sweep(timer *t)
{
    size_t i, kept;

    for (i = 0, kept = 0; i < t->used; i++) {
        if (!t->host->is_cancelled(t->heap[i].task)) {
            t->heap[kept++] = t->heap[i];
        }
    }
    t->used = kept;
    for (i = t->used / 2; i-- > 0; ) {
        sift_down(t->heap, t->used, i, t->heap[i]);
    }
}

/* Makes room for one more. */
static int
reserve(timer *t)
{
    size_t  n;
    entry  *heap;

    if (t->used < t->allocated) {
        return 1;
    }
    sweep(t);
    /* Half of it is free, or it grows: so sweeps are few. */
    if (t->used < t->allocated / 2) {
        return 1;
    }
    n = t->allocated ? t->allocated * 2 : 256;
    heap = realloc(t->heap, n * sizeof(entry));
    if (heap == NULL) {
        return t->used < t->allocated;
    }
    t->heap = heap;
    t->allocated = n;
    return 1;
}

static int
fail(const nbffi_host *host, nbffi_task task, int code, const char *msg)
{
    return host->fail(task, code, msg, strlen(msg));
}

/* Nobody waits for the task any more. Its place in the heap is not looked for. */
static void
timer_cancelled(void *arg, nbffi_task task)
{
    timer *t = arg;

    fail(t->host, task, CANCELLED, "cancelled");
}

static void *
timer_main(void *arg)
{
    timer            *t = arg;
    entry             batch[BATCH];
    size_t            i, n;
    uint64_t          now, until;
    struct timespec   ts;

    pthread_mutex_lock(&t->lock);

    while (!t->stop) {
        if (t->used == 0) {
            pthread_cond_wait(&t->changed, &t->lock);
            continue;
        }

        now = now_ns();
        for (n = 0; n < BATCH && t->used > 0 && t->heap[0].due <= now; n++) {
            batch[n] = pop(t);
        }

        if (n > 0) {
            /* Without the lock, so that call never waits for the host. */
            pthread_mutex_unlock(&t->lock);
            for (i = 0; i < n; i++) {
                /* Whatever it returns, the task is complete: if the payload
                 * exceeds max_response, with that error; if it was cancelled,
                 * it is stale. */
                t->host->respond(batch[i].task, batch[i].payload, batch[i].len);
            }
            pthread_mutex_lock(&t->lock);
            continue;
        }

        until = t->heap[0].due;
        ts.tv_sec = (time_t) (until / NS_PER_S);
        ts.tv_nsec = (long) (until % NS_PER_S);
        pthread_cond_timedwait(&t->changed, &t->lock, &ts);
    }

    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* Reads "<ms>" or "<ms> <payload>". */
static int
parse(const char *req, uint64_t len, uint64_t *ms, uint64_t *payload)
{
    uint64_t i;

    *ms = 0;
    for (i = 0; i < len && req[i] >= '0' && req[i] <= '9'; i++) {
        *ms = *ms * 10 + (uint64_t) (req[i] - '0');
        if (*ms > MAX_MS) {
            return 0;
        }
    }
    if (i == 0 || (i < len && req[i] != ' ')) {
        return 0;
    }
    *payload = i < len ? i + 1 : i;
    return 1;
}

static int
timer_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    timer       *t = state;
    const char  *text = req;
    int          first;
    entry        e;
    uint64_t     ms, payload;

    if (!parse(text, len, &ms, &payload)) {
        fail(t->host, task, BAD_REQUEST,
             "expected \"<milliseconds> <payload>\", at most a day");
        return 0;
    }

    e.task = task;
    e.payload = text + payload;
    e.len = len - payload;
    e.due = now_ns() + ms * NS_PER_MS;

    pthread_mutex_lock(&t->lock);
    if (!reserve(t)) {
        pthread_mutex_unlock(&t->lock);
        fail(t->host, task, NO_MEMORY, "out of memory");
        return 0;
    }
    e.seq = t->seq++;
    sift_up(t->heap, t->used++, e);
    first = t->heap[0].task == task;
    if (first) {
        pthread_cond_signal(&t->changed);
    }
    pthread_mutex_unlock(&t->lock);

    /* The thread may have completed it by now: then it is stale. */
    if (t->host->on_cancel(task, timer_cancelled, t) == NBFFI_NO_MEMORY) {
        fail(t->host, task, NO_MEMORY, "out of memory");
    }
    return 0;
}

static void
destroy(timer *t)
{
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    free(t->heap);
    free(t);
}

static int
timer_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    int                  rc;
    timer               *t;
    pthread_condattr_t   attr;

    t = calloc(1, sizeof(timer));
    if (t == NULL) {
        snprintf(err, (size_t) err_size, "out of memory");
        return 1;
    }
    t->host = host;
    pthread_mutex_init(&t->lock, NULL);
    /* The clock of deadlines, which nobody sets. */
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);

    rc = pthread_create(&t->thread, NULL, timer_main, t);
    if (rc != 0) {
        snprintf(err, (size_t) err_size, "cannot start the thread: error %d", rc);
        destroy(t);
        return 1;
    }
    *state = t;
    return 0;
}

static void
timer_close(void *state)
{
    size_t  i;
    timer  *t = state;

    pthread_mutex_lock(&t->lock);
    t->stop = 1;
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);

    /* The host closes after the last task; if there is one yet, its caller is
     * not left without an answer. */
    for (i = 0; i < t->used; i++) {
        fail(t->host, t->heap[i].task, CLOSED, "closed");
    }
    destroy(t);
}

static const nbffi_plugin timer_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), NBFFI_ASYNC, 0,
    timer_init, timer_call, timer_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &timer_plugin;
}
