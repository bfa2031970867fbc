/*
 * puller - a blocking plugin that runs several tasks in one call.
 *
 * Its configuration is the name of a file; with "await " in front, it waits for
 * tasks inside of call.
 *
 * Requests:
 *     hold       waits until that file is there, so that other tasks can queue
 *                up behind
 *     counts     responds "<calls> <tasks>", since the last time
 *     leave      is not responded to
 *     fail       is not responded to, and call returns 7 after it
 *     <text>     responds with the text
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nonblocking_ffi.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const nbffi_host *host;
static const char *path;
static int (*more)(const nbffi_host *host, nbffi_task *task, const void **req,
                   uint64_t *len);
static int calls, tasks;

static int
is(const char *word, const void *req, uint64_t len)
{
    return len == strlen(word) && memcmp(word, req, len) == 0;
}

static void
hold(void)
{
    const struct timespec pause = { 0, 1000000 };

    while (access(path, F_OK) != 0) {
        nanosleep(&pause, NULL);
    }
}

static void
counts(nbffi_task task)
{
    char text[64];
    int  len;

    pthread_mutex_lock(&lock);
    len = snprintf(text, sizeof(text), "%d %d", calls, tasks);
    calls = 0;
    tasks = 0;
    pthread_mutex_unlock(&lock);
    host->respond(task, text, (uint64_t) len);
}

static int
init(const nbffi_host *given, void **state, char *err, uint64_t size)
{
    (void) state;
    (void) err;
    (void) size;

    host = given;
    path = host->config(host, NULL);
    more = host->next;
    if (strncmp(path, "await ", 6) == 0) {
        path += 6;
        more = host->await_next;
    }
    return 0;
}

static int
call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    (void) state;

    pthread_mutex_lock(&lock);
    calls++;
    pthread_mutex_unlock(&lock);
    do {
        pthread_mutex_lock(&lock);
        tasks++;
        pthread_mutex_unlock(&lock);
        if (is("fail", req, len)) {
            return 7;
        }
        if (is("hold", req, len)) {
            hold();
        }
        if (is("counts", req, len)) {
            counts(task);
        } else if (!is("leave", req, len)) {
            host->respond(task, req, len);
        }
    } while (more(host, &task, &req, &len));
    return 0;
}

static const nbffi_plugin plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0, init, call, NULL
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;

    return &plugin;
}
