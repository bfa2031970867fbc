/*
 * fault - a plugin that misbehaves on request, and counts what it does.
 *
 * A request is "<operation> <number> <id>", the id being optional. The
 * operations:
 *
 *     echo N       answers the request itself
 *     sleep N      sleeps N ms, whatever happens, then answers like echo
 *     spin N       computes for N us, then answers like echo
 *     linger N     sleeps until it is cancelled, N ms at most
 *     give N       answers N bytes of its own memory (respond_owned)
 *     fail N       fails with code N
 *     code N       returns N from call
 *     twice N      responds twice; the second must be refused
 *     never N      never answers (in the asynchronous plugin)
 *     late N       a thread of its own sleeps N ms and responds (likewise)
 *
 * The counters are in a file that the config names ("counters=<path>
 * init_ms=<n> fail=<message>"), so that those of all workers add up, and
 * outlive a worker that is killed. Behind them is one counter for each id:
 * how often that request has run.
 */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nonblocking_ffi.h"

/* The order is known to tests/support/plugins.rs. */
enum {
    STARTED, ENDED, CANCELLED, GIVEN, RELEASED, REFUSED, INITS, CLOSES,
    RUNNING, MOST_RUNNING, BAD, HEADER = 16
};

typedef struct {
    const nbffi_host  *host;
    uint64_t          *counters;
    size_t             bytes;
    int                threads;     /* of respond_late */
} runtime;

typedef struct {
    runtime    *runtime;
    nbffi_task  task;
    uint64_t    ms;
} later;

static uint64_t
add(runtime *r, int counter, int64_t by)
{
    return __atomic_add_fetch(&r->counters[counter], (uint64_t) by,
                              __ATOMIC_SEQ_CST);
}

static uint64_t
now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static void
sleep_ms(uint64_t ms)
{
    struct timespec ts;

    ts.tv_sec = (time_t) (ms / 1000);
    ts.tv_nsec = (long) (ms % 1000) * 1000000;
    nanosleep(&ts, NULL);
}

/* Frees what was handed over, and counts it in the memory behind it. */
static void
release(void *arg, void *data)
{
    add(arg, RELEASED, 1);
    free(data);
}

/* Reads a number; what is no number is 0. */
static const char *
number(const char *at, const char *end, uint64_t *value)
{
    *value = 0;
    while (at < end && *at == ' ') {
        at++;
    }
    for ( /* void */ ; at < end && *at >= '0' && *at <= '9'; at++) {
        *value = *value * 10 + (uint64_t) (*at - '0');
    }
    return at;
}

static void
enter(runtime *r, uint64_t id)
{
    uint64_t running, most;

    add(r, STARTED, 1);
    running = add(r, RUNNING, 1);
    most = __atomic_load_n(&r->counters[MOST_RUNNING], __ATOMIC_SEQ_CST);
    while (running > most
           && !__atomic_compare_exchange_n(&r->counters[MOST_RUNNING], &most,
                                           running, 0, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST))
    {
        /* most is what it is now */
    }
    if (id > 0 && (HEADER + id) * sizeof(uint64_t) <= r->bytes - 8) {
        add(r, (int) (HEADER + id), 1);
    }
}

/* A task must not be counted as running when its caller has the answer. */
static void
leave(runtime *r)
{
    add(r, RUNNING, -1);
    add(r, ENDED, 1);
}

static void *
respond_late(void *arg)
{
    later    l = *(later *) arg;
    runtime  *r = l.runtime;

    free(arg);
    sleep_ms(l.ms);
    leave(r);
    if (r->host->is_cancelled(l.task)) {
        add(r, CANCELLED, 1);
    }
    r->host->respond(l.task, "late", 4);
    if (r->host->respond(l.task, "again", 5) == NBFFI_STALE) {
        add(r, REFUSED, 1);
    }
    __atomic_sub_fetch(&r->threads, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static int
start_late(runtime *r, nbffi_task task, uint64_t ms)
{
    int             rc;
    later          *l;
    pthread_t       thread;
    pthread_attr_t  attr;

    l = malloc(sizeof(later));
    if (l == NULL) {
        return -1;
    }
    l->runtime = r;
    l->task = task;
    l->ms = ms;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    __atomic_add_fetch(&r->threads, 1, __ATOMIC_SEQ_CST);
    rc = pthread_create(&thread, &attr, respond_late, l);
    pthread_attr_destroy(&attr);
    if (rc != 0) {
        __atomic_sub_fetch(&r->threads, 1, __ATOMIC_SEQ_CST);
        free(l);
    }
    return rc;
}

static int
is(const char *req, const char *end, const char *operation)
{
    size_t len = strlen(operation);

    return (size_t) (end - req) >= len && memcmp(req, operation, len) == 0;
}

static int
fault_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    char        *data;
    runtime     *r = state;
    uint64_t     n, id, until;
    const char  *text = req, *end = text + len, *at;

    for (at = text; at < end && *at != ' '; at++) {
        /* void */
    }
    at = number(at, end, &n);
    number(at, end, &id);
    enter(r, id);

    if (is(text, end, "never")) {
        return 0;
    }
    if (is(text, end, "late")) {
        return start_late(r, task, n);
    }

    if (is(text, end, "sleep")) {
        sleep_ms(n);

    } else if (is(text, end, "spin")) {
        until = now_ns() + n * 1000;
        while (now_ns() < until) {
            /* void */
        }

    } else if (is(text, end, "linger")) {
        until = now_ns() + n * 1000000;
        while (now_ns() < until && !r->host->is_cancelled(task)) {
            sleep_ms(1);
        }
        if (r->host->is_cancelled(task)) {
            add(r, CANCELLED, 1);
        }

    } else if (is(text, end, "give")) {
        data = malloc(n ? n : 1);
        if (data == NULL) {
            leave(r);
            return 1;
        }
        memset(data, 'g', n);
        leave(r);
        add(r, GIVEN, 1);
        r->host->respond_owned(task, data, n, release, r);
        return 0;

    } else if (is(text, end, "fail")) {
        leave(r);
        return r->host->fail(task, (int64_t) n, "as asked", 8);

    } else if (is(text, end, "code")) {
        leave(r);
        return (int) n;

    } else if (is(text, end, "twice")) {
        leave(r);
        r->host->respond(task, "first", 5);
        if (r->host->respond(task, "second", 6) == NBFFI_STALE) {
            add(r, REFUSED, 1);
        }
        return 0;

    } else if (!is(text, end, "echo")) {
        add(r, BAD, 1);
        leave(r);
        return r->host->fail(task, 400, "no such operation", 17);
    }

    leave(r);
    r->host->respond(task, req, len);
    return 0;
}

/* The value of an option in the config, copied to value; 1 if it is there. */
static int
option(const char *config, const char *key, char *value, size_t size)
{
    size_t       n;
    const char  *at = strstr(config, key);

    if (at == NULL) {
        return 0;
    }
    at += strlen(key);
    n = strcspn(at, " ");
    if (n >= size) {
        n = size - 1;
    }
    memcpy(value, at, n);
    value[n] = '\0';
    return 1;
}

static int
fault_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    int           fd;
    char          value[1024];
    runtime      *r;
    struct stat   info;
    const char   *config = host->config(host, NULL);

    if (option(config, "init_ms=", value, sizeof(value))) {
        sleep_ms((uint64_t) atoi(value));
    }
    if (option(config, "fail=", value, sizeof(value))) {
        snprintf(err, (size_t) err_size, "%s", value);
        return 1;
    }
    if (!option(config, "counters=", value, sizeof(value))) {
        snprintf(err, (size_t) err_size, "config: no counters");
        return 1;
    }
    fd = open(value, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        snprintf(err, (size_t) err_size, "cannot open %s", value);
        return 1;
    }
    r = calloc(1, sizeof(runtime));
    r->host = host;
    r->bytes = (size_t) info.st_size;
    r->counters = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                       fd, 0);
    close(fd);
    if (r->counters == MAP_FAILED) {
        snprintf(err, (size_t) err_size, "cannot map %s", value);
        free(r);
        return 1;
    }
    add(r, INITS, 1);
    *state = r;
    return 0;
}

static void
fault_close(void *state)
{
    runtime *r = state;

    /* Their tasks are complete; they are on their way out. */
    while (__atomic_load_n(&r->threads, __ATOMIC_SEQ_CST) > 0) {
        sleep_ms(1);
    }
    add(r, CLOSES, 1);
    munmap(r->counters, r->bytes);
    free(r);
}

static const nbffi_plugin fault_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    fault_init, fault_call, fault_close
};

static const nbffi_plugin fault_async_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), NBFFI_ASYNC, 0,
    fault_init, fault_call, fault_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &fault_plugin;
}

NBFFI_EXPORT const nbffi_plugin *fault_async(uint32_t host_abi_version);

const nbffi_plugin *
fault_async(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &fault_async_plugin;
}
