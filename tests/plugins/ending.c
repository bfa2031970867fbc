/* What a plugin does at the end of the process, and how it ends one. A request is
 * a verb and its argument. */
#define _GNU_SOURCE
#include <nonblocking_ffi.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const nbffi_host *host;

static int
init(const nbffi_host *given, void **state, char *err, uint64_t err_size)
{
    (void) state;
    (void) err;
    (void) err_size;
    host = given;
    return 0;
}

static void
note(void *arg, uint64_t deadline_ns)
{
    struct timespec  now;
    FILE            *file = fopen(arg, "a");

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (file != NULL) {
        /* Not closed: buffers are flushed at the end. */
        fputs(deadline_ns > (uint64_t) now.tv_sec * 1000000000u ? "in time, "
                                                               : "too late, ",
              file);
    }
}

static void
hang(void *arg, uint64_t deadline_ns)
{
    struct timespec  hour = { 3600, 0 };

    (void) arg;
    (void) deadline_ns;
    nanosleep(&hour, NULL);
}

static void
leave(void *arg, uint64_t deadline_ns)
{
    (void) arg;
    (void) deadline_ns;
    exit(2);
}

static int
call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    char        text[512] = "";
    const char *argument;
    int         done = NBFFI_OK;

    (void) state;
    memcpy(text, req, len < sizeof(text) ? len : sizeof(text) - 1);
    argument = strchr(text, ' ');
    argument = argument == NULL ? "" : argument + 1;
    if (strncmp(text, "exit ", 5) == 0) {
        exit(atoi(argument));
    } else if (strncmp(text, "note ", 5) == 0) {
        char *path = strdup(argument);

        /* The same twice is once. */
        done = host->at_exit(host, note, path);
        done = done != NBFFI_OK ? done : host->at_exit(host, note, path);
    } else if (strcmp(text, "hang") == 0) {
        done = host->at_exit(host, hang, NULL);
    } else if (strcmp(text, "leave") == 0) {
        done = host->at_exit(host, leave, NULL);
    } else if (strcmp(text, "nothing") == 0) {
        done = host->at_exit(host, NULL, NULL) == NBFFI_INVALID ? NBFFI_OK : 1;
    }
    host->respond(task, "done", 4);
    return done;
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
