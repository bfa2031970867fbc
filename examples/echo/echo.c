/*
 * echo - answers every request with the request.
 *
 * The smallest blocking plugin that shows both ways to respond with bytes: a
 * copy for small responses, and a buffer of the host, which is filled in place
 * and not copied again, for large ones.
 */
#include <string.h>

#include "nonblocking_ffi.h"

/* Up to this many bytes one call that copies is cheaper than two. */
#define SMALL 4096

static int
echo_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    (void) err;
    (void) err_size;

    /* The host is all that call needs. */
    *state = (void *) host;
    return 0;
}

static int
echo_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    const nbffi_host *host = state;
    void             *buf;

    if (len <= SMALL) {
        return host->respond(task, req, len);
    }

    buf = host->alloc(task, len);
    if (buf == NULL) {
        /* The host has failed the task: "response too large", for instance.
         * From here on the request must not be touched. */
        return 0;
    }

    memcpy(buf, req, (size_t) len);
    return host->respond_buffer(task, len);
}

static const nbffi_plugin echo_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    echo_init, echo_call, NULL
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &echo_plugin;
}
