/*
 * entries - plugins that cannot be loaded, each for another reason, and some
 * that can: one entry function each. There is no nbffi_plugin_entry.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nonblocking_ffi.h"

#define VERSION(major, minor) (((uint32_t) (major) << 16) | (uint32_t) (minor))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int inits;

NBFFI_EXPORT int
entries_inits(void)
{
    int  n;

    pthread_mutex_lock(&lock);
    n = inits;
    pthread_mutex_unlock(&lock);
    return n;
}

static int
count(void)
{
    int  n;

    pthread_mutex_lock(&lock);
    n = ++inits;
    pthread_mutex_unlock(&lock);
    return n;
}

static int
init_fine(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    (void) err;
    (void) err_size;

    *state = (void *) host;
    count();
    return 0;
}

/* Says which configuration it does not like. */
static int
init_fails(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    (void) state;

    count();
    snprintf(err, (size_t) err_size, "no such model: %s",
             host->config(host, NULL));
    return 1;
}

static int
init_silent(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    (void) host;
    (void) state;
    (void) err;
    (void) err_size;

    count();
    return 42;
}

/* A message that fills all the room there is. */
static int
init_verbose(const nbffi_host *host, void **state, char *err,
    uint64_t err_size)
{
    (void) host;
    (void) state;

    count();
    memset(err, 'm', (size_t) err_size);
    return 1;
}

/* Fails every other time. */
static int
init_flaky(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    *state = (void *) host;
    if (count() % 2 == 1) {
        snprintf(err, (size_t) err_size, "not yet");
        return 1;
    }
    return 0;
}

static int
call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    const nbffi_host  *host = state;

    return host->respond(task, req, len);
}

#define ENTRY(name, version, size, flags, init, call)                         \
    NBFFI_EXPORT const nbffi_plugin *                                         \
    name(uint32_t host_abi_version)                                           \
    {                                                                         \
        static const nbffi_plugin  plugin = {                                 \
            version, size, flags, 0, init, call, NULL                         \
        };                                                                    \
                                                                              \
        (void) host_abi_version;                                              \
        return &plugin;                                                       \
    }

#define SIZE sizeof(nbffi_plugin)
#define ABI NBFFI_ABI_VERSION

ENTRY(fine, ABI, SIZE, 0, init_fine, call)
ENTRY(larger, ABI, SIZE + 8, 0, init_fine, call)
ENTRY(newer_major, VERSION(2, 0), SIZE, 0, init_fine, call)
ENTRY(older_major, VERSION(0, 9), SIZE, 0, init_fine, call)
ENTRY(newer_minor, VERSION(1, 7), SIZE, 0, init_fine, call)
ENTRY(smaller, ABI, SIZE - 8, 0, init_fine, call)
ENTRY(flagged, ABI, SIZE, 0x40, init_fine, call)
ENTRY(callless, ABI, SIZE, 0, init_fine, NULL)
ENTRY(failing, ABI, SIZE, 0, init_fails, call)
ENTRY(silent, ABI, SIZE, 0, init_silent, call)
ENTRY(verbose, ABI, SIZE, 0, init_verbose, call)
ENTRY(flaky, ABI, SIZE, 0, init_flaky, call)

/* No entries, though they can be called like one. */
NBFFI_EXPORT int some_data = 7;

#define NO_ENTRY(name, value)                                                 \
    NBFFI_EXPORT const void *                                                 \
    name(uint32_t host_abi_version)                                           \
    {                                                                         \
        (void) host_abi_version;                                              \
        return (const void *) (value);                                        \
    }

NO_ENTRY(returns_minus_one, -1L)
NO_ENTRY(returns_seven, 7L)
NO_ENTRY(returns_text, "some text, which is longer than a descriptor would be")

NBFFI_EXPORT const void *
returns_itself(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return (const void *) (uintptr_t) returns_itself;
}

NBFFI_EXPORT const void *
returns_zeros(uint32_t host_abi_version)
{
    static const char  zeros[256];

    (void) host_abi_version;
    return zeros;
}

/* The head can be read, what should follow cannot. */
NBFFI_EXPORT const void *
returns_end_of_memory(uint32_t host_abi_version)
{
    size_t     page = (size_t) sysconf(_SC_PAGESIZE);
    char      *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t  *head = (uint32_t *) (pages + page - 2 * sizeof(uint32_t));

    (void) host_abi_version;
    if (pages == MAP_FAILED || munmap(pages + page, page) != 0) {
        return NULL;
    }
    head[0] = ABI;
    head[1] = SIZE;
    return head;
}

NBFFI_EXPORT const nbffi_plugin *
refusing(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return NULL;
}
