/*
 * spin - computes until it has used as many microseconds of processor time as
 * its configuration says, then answers with the request. It stands for plugins
 * that compress, resize or encrypt.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "nonblocking_ffi.h"

/* What is computed between two looks at the clock: about a microsecond. */
#define STEPS 500

struct spinner {
    const nbffi_host *host;
    int64_t ns;
};

static int64_t
used_ns(void)
{
    struct timespec used;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (int64_t) used.tv_sec * 1000000000 + used.tv_nsec;
}

static int
spin_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    struct spinner *spinner = malloc(sizeof(*spinner));

    if (spinner == NULL) {
        if (err_size > 0) {
            err[0] = '\0';
        }
        return 1;
    }
    spinner->host = host;
    spinner->ns = strtol(host->config(host, NULL), NULL, 10) * 1000;
    *state = spinner;
    return 0;
}

static int
spin_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    struct spinner *spinner = state;
    int64_t end = used_ns() + spinner->ns;
    volatile uint32_t value = 1;
    int i;

    while (used_ns() < end) {
        for (i = 0; i < STEPS; i++) {
            value = value * 1664525 + 1013904223;
        }
    }
    return spinner->host->respond(task, req, len);
}

static void
spin_close(void *state)
{
    free(state);
}

static const nbffi_plugin spin_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    spin_init, spin_call, spin_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &spin_plugin;
}
