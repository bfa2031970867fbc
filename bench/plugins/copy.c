/*
 * copy - answers with a copy of the request, its first four bytes replaced by
 * a number that is another one each time.
 *
 * The response of echo is its request, which Lua has got already; this one's
 * is new, so that all the work that real responses make is done. The number is
 * at the front because LuaJIT hashes those bytes of a string of any length.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "nonblocking_ffi.h"

#define STAMP_BYTES 4

struct copy {
    const nbffi_host *host;
    uint32_t stamp;
};

static int
copy_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    struct copy *copy = malloc(sizeof(*copy));

    if (copy == NULL) {
        if (err_size > 0) {
            err[0] = '\0';
        }
        return 1;
    }
    copy->host = host;
    copy->stamp = 0;
    *state = copy;
    return 0;
}

static int
copy_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    struct copy *copy = state;
    char *res = copy->host->alloc(task, len);
    uint32_t stamp;

    if (res == NULL) {
        return 0; /* the host says what it was */
    }
    memcpy(res, req, len);
    if (len >= STAMP_BYTES) {
        /* Relaxed: only that no two are equal matters. */
        stamp = __atomic_add_fetch(&copy->stamp, 1, __ATOMIC_RELAXED);
        memcpy(res, &stamp, STAMP_BYTES);
    }
    return copy->host->respond_buffer(task, len);
}

static void
copy_close(void *state)
{
    free(state);
}

static const nbffi_plugin copy_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    copy_init, copy_call, copy_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &copy_plugin;
}
