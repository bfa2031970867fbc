/*
 * report - a plugin that reports crashes as libraries do that were made for a
 * process of their own: it handles SIGSEGV and the like, writes a line, and lets
 * the handler of before have the next one. The config names the file.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "nonblocking_ffi.h"

static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
static struct sigaction before[NSIG];
static int file = -1;

static void
on_signal(int number, siginfo_t *info, void *context)
{
    char line[] = "a C library reports signal ..\n";

    (void) info;
    (void) context;
    line[27] = (char) ('0' + number / 10);
    line[28] = (char) ('0' + number % 10);
    if (write(file, line, sizeof(line) - 1) < 0) {
        _exit(1);
    }
    sigaction(number, &before[number], NULL);
    raise(number);
}

static int
init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    uint64_t len;
    const char *config = host->config(host, &len);
    struct sigaction action;
    size_t i;

    (void) err;
    (void) err_size;
    file = open(config, O_WRONLY | O_APPEND);
    if (file < 0) {
        return 1;
    }
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        sigaction(signals[i], &action, &before[signals[i]]);
    }
    *state = NULL;
    return 0;
}

static int
call(void *state, nbffi_task task, const void *request, uint64_t len)
{
    (void) state;
    (void) task;
    (void) request;
    (void) len;
    return 0;
}

static void
close_runtime(void *state)
{
    (void) state;
}

static const nbffi_plugin plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0, init, call, close_runtime,
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &plugin;
}
