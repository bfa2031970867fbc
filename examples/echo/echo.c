/*
 * echo - answers every request with the request.
 *
 * The smallest blocking plugin. The host copies what it is given, but for a
 * part of the request itself: that it passes on as it is.
 */
#include "nonblocking_ffi.h"

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

    return host->respond(task, req, len);
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
