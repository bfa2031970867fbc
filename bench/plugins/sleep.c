/*
 * sleep - blocks for as many microseconds as its configuration says, then
 * answers with the request. It stands for plugins that wait for a disk, a
 * database or a lock.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "nonblocking_ffi.h"

struct sleeper {
    const nbffi_host *host;
    struct timespec time;
};

static int
sleep_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    struct sleeper *sleeper = malloc(sizeof(*sleeper));
    long us = strtol(host->config(host, NULL), NULL, 10);

    if (sleeper == NULL) {
        if (err_size > 0) {
            err[0] = '\0';
        }
        return 1;
    }
    sleeper->host = host;
    sleeper->time.tv_sec = us / 1000000;
    sleeper->time.tv_nsec = us % 1000000 * 1000;
    *state = sleeper;
    return 0;
}

static int
sleep_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    struct sleeper *sleeper = state;
    struct timespec left = sleeper->time;

    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        /* nanosleep has put into `left` what is left */
    }
    return sleeper->host->respond(task, req, len);
}

static void
sleep_close(void *state)
{
    free(state);
}

static const nbffi_plugin sleep_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    sleep_init, sleep_call, sleep_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &sleep_plugin;
}
