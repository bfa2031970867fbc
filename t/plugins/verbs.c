/*
 * verbs - a blocking plugin that does with a task what the request says.
 *
 * Everything that a host function can answer has a verb here, the mistakes
 * included. What a function returns after the task is complete goes nowhere in
 * the response, so it is kept for verbs_last().
 */
#define _GNU_SOURCE

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nonblocking_ffi.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* What verbs_last() is before there is anything. */
#define UNKNOWN 1000

static const char zeros[1 << 20];
static int last_code = UNKNOWN;
static int releases;

/* Set when the response may have arrived already: tests poll. */
NBFFI_EXPORT int
verbs_last(void)
{
    int  n;

    pthread_mutex_lock(&lock);
    n = last_code;
    pthread_mutex_unlock(&lock);
    return n;
}

NBFFI_EXPORT void
verbs_forget(void)
{
    pthread_mutex_lock(&lock);
    last_code = UNKNOWN;
    pthread_mutex_unlock(&lock);
}

NBFFI_EXPORT int
verbs_released(void)
{
    int  n;

    pthread_mutex_lock(&lock);
    n = releases;
    pthread_mutex_unlock(&lock);
    return n;
}

static void
keep(int code)
{
    pthread_mutex_lock(&lock);
    last_code = code;
    pthread_mutex_unlock(&lock);
}

static void
release(void *arg, void *data)
{
    pthread_mutex_lock(&lock);
    releases++;
    pthread_mutex_unlock(&lock);
    if (arg != NULL) {
        free(data);
    }
}

static int
say(const nbffi_host *host, nbffi_task task, const char *text)
{
    return host->respond(task, text, strlen(text));
}

static int
verbs_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    (void) err;
    (void) err_size;

    *state = (void *) host;
    return 0;
}

/* alloc and respond_buffer, used well and badly. */
static void
do_buffer(const nbffi_host *host, nbffi_task task, const char *verb,
    long long n)
{
    char       *buf, text[64];
    int         first, second;
    long long   sizes[] = { 1, 33, 64, 65, 1000, 100000 };
    size_t      i;

    if (strcmp(verb, "buffer") == 0) {
        buf = host->alloc(task, (uint64_t) n);
        if (buf == NULL) {
            keep(NBFFI_TOO_LARGE);
            return;
        }
        memset(buf, 'b', (size_t) n);
        keep(host->respond_buffer(task, (uint64_t) n));

    } else if (strcmp(verb, "shorter") == 0) {
        buf = host->alloc(task, (uint64_t) n + 100);
        memset(buf, 's', (size_t) n + 100);
        host->respond_buffer(task, (uint64_t) n);

    } else if (strcmp(verb, "unless") == 0) {
        /* The task is still pending when there is no buffer. */
        buf = host->alloc(task, (uint64_t) n);
        say(host, task, buf == NULL ? "no buffer" : "a buffer");

    } else if (strcmp(verb, "again") == 0) {
        memset(host->alloc(task, 10), 'x', 10);
        buf = host->alloc(task, (uint64_t) n);
        memset(buf, 'a', (size_t) n);
        host->respond_buffer(task, (uint64_t) n);

    } else if (strcmp(verb, "beyond") == 0) {
        /* One byte more than it has, and then very many more. */
        if (host->alloc(task, (uint64_t) n) == NULL) {
            return;
        }
        first = host->respond_buffer(task, (uint64_t) n + 1);
        second = host->respond_buffer(task, (uint64_t) n + 1000000);
        snprintf(text, sizeof(text), "%d %d", first, second);
        say(host, task, text);

    } else if (strcmp(verb, "unallocated") == 0) {
        first = host->respond_buffer(task, (uint64_t) n);
        snprintf(text, sizeof(text), "%d", first);
        say(host, task, text);

    } else {
        for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            buf = host->alloc(task, (uint64_t) sizes[i]);
            if (buf == NULL || (uintptr_t) buf % 16 != 0) {
                say(host, task, "not aligned");
                return;
            }
        }
        say(host, task, "aligned");
    }
}

static void
do_owned(const nbffi_host *host, nbffi_task task, const char *verb,
    long long n)
{
    static char   forever[] = "for ever";
    char         *data;

    if (strcmp(verb, "static") == 0) {
        host->respond_owned(task, forever, strlen(forever), NULL, NULL);
        return;
    }
    data = malloc((size_t) n + 1);
    if (data == NULL) {
        host->fail(task, 500, "no memory", 9);
        return;
    }
    memset(data, 'o', (size_t) n);
    if (strcmp(verb, "owned-late") == 0) {
        say(host, task, "first");
    }
    keep(host->respond_owned(task, data, (uint64_t) n, release, data));
}

/* Arguments that the host has to refuse; the task stays pending. */
static void
do_invalid(const nbffi_host *host, nbffi_task task)
{
    int   codes[5];
    char  text[64];

    codes[0] = host->respond(task, NULL, 5);
    codes[1] = host->fail(task, 1, NULL, 5);
    codes[2] = host->set_status(task, 1, NULL, 5);
    codes[3] = host->respond_owned(task, NULL, 5, release, NULL);
    codes[4] = host->respond(0, "x", 1);
    snprintf(text, sizeof(text), "%d %d %d %d %d", codes[0], codes[1],
             codes[2], codes[3], codes[4]);
    say(host, task, text);
}

static void
do_twice(const nbffi_host *host, nbffi_task task)
{
    int  fresh;

    say(host, task, "first");
    /* A bit for each function that did not see that the task is complete. */
    fresh = say(host, task, "second") != NBFFI_STALE;
    fresh |= (host->fail(task, 1, "third", 5) != NBFFI_STALE) << 1;
    fresh |= (host->set_status(task, 1, "fourth", 6) != NBFFI_STALE) << 2;
    fresh |= (host->respond_buffer(task, 0) != NBFFI_STALE) << 3;
    fresh |= (host->alloc(task, 10) != NULL) << 4;
    fresh |= (host->deadline_ns(task) != 0) << 5;
    fresh |= (host->is_cancelled(task) != 1) << 6;
    keep(fresh);
}

/* What a plugin can ask about itself. */
static int
do_ask(const nbffi_host *host, nbffi_task task, const char *verb)
{
    uint64_t          len, at;
    const char       *text;
    char              name[64];
    int               i, blocked = 0;
    sigset_t          mask;
    struct timespec   now;

    if (strcmp(verb, "config") == 0) {
        text = host->config(host, &len);
        if (strlen(text) != len || host->config(host, NULL) != text) {
            return say(host, task, "not terminated");
        }
        return host->respond(task, text, len);
    }
    if (strcmp(verb, "name") == 0) {
        text = host->name(host, &len);
        return host->respond(task, text, len);
    }
    if (strcmp(verb, "thread") == 0) {
        pthread_getname_np(pthread_self(), name, sizeof(name));
        return say(host, task, name);
    }
    if (strcmp(verb, "signals") == 0) {
        pthread_sigmask(SIG_SETMASK, NULL, &mask);
        for (i = 1; i < 32; i++) {
            blocked += sigismember(&mask, i);
        }
        return say(host, task, blocked == 0 ? "none blocked" : "some are");
    }
    if (strcmp(verb, "host") == 0) {
        i = host->abi_version == NBFFI_ABI_VERSION
            && host->size == sizeof(nbffi_host);
        return say(host, task, i ? "as the header has it" : "differs");
    }
    if (strcmp(verb, "deadline") == 0) {
        at = host->deadline_ns(task);
        if (at == NBFFI_NO_DEADLINE) {
            return say(host, task, "none");
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        at -= (uint64_t) now.tv_sec * 1000000000U + (uint64_t) now.tv_nsec;
        snprintf(name, sizeof(name), "%.3f", (double) at / 1e9);
        return say(host, task, name);
    }
    return host->fail(task, 400, "unknown verb", 12);
}

static int
verbs_call(void *state, nbffi_task task, const void *request, uint64_t len)
{
    const nbffi_host  *host = state;
    char               req[1024], verb[32] = "";
    const char        *text;
    long long          n = 0;
    int                at = 0;

    if (len >= sizeof(req)) {
        return 1;
    }
    memcpy(req, request, (size_t) len);
    req[len] = '\0';
    sscanf(req, "%31s %lld%n", verb, &n, &at);
    text = at > 0 && req[at] == ' ' ? req + at + 1 : "";

    if (strcmp(verb, "fail") == 0) {
        host->fail(task, n, text, strlen(text));
    } else if (strcmp(verb, "return") == 0) {
        return (int) n;
    } else if (strcmp(verb, "respond-return") == 0) {
        say(host, task, "responded");
        return (int) n;
    } else if (strcmp(verb, "status") == 0) {
        host->set_status(task, n, text, strlen(text));
        say(host, task, "with a status");
    } else if (strcmp(verb, "status-fail") == 0) {
        host->set_status(task, 1, "a status", 8);
        host->fail(task, n, text, strlen(text));
    } else if (strcmp(verb, "status-none") == 0) {
        host->set_status(task, n, text, strlen(text));
    } else if (strcmp(verb, "none") == 0) {
        return 0;
    } else if (strcmp(verb, "log") == 0) {
        /* With what is behind a NUL. */
        host->log(host, (int) n, text,
                  *text != '\0' ? (uint64_t) (req + len - text) : 0);
        say(host, task, "logged");
    } else if (strcmp(verb, "size") == 0) {
        if (n > (long long) sizeof(zeros)) {
            return 1;
        }
        keep(host->respond(task, zeros, (uint64_t) n));
    } else if (strncmp(verb, "owned", 5) == 0 || strcmp(verb, "static") == 0) {
        do_owned(host, task, verb, n);
    } else if (strcmp(verb, "invalid") == 0) {
        do_invalid(host, task);
    } else if (strcmp(verb, "twice") == 0) {
        do_twice(host, task);
    } else if (strcmp(verb, "buffer") == 0 || strcmp(verb, "shorter") == 0
               || strcmp(verb, "unless") == 0 || strcmp(verb, "again") == 0
               || strcmp(verb, "beyond") == 0
               || strcmp(verb, "unallocated") == 0
               || strcmp(verb, "alignment") == 0)
    {
        do_buffer(host, task, verb, n);
    } else {
        do_ask(host, task, verb);
    }
    return 0;
}

static const nbffi_plugin verbs_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    verbs_init, verbs_call, NULL
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &verbs_plugin;
}
