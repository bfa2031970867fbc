/*
 * farewell - an echo that says in nginx's log when it is closed.
 */
#include "nonblocking_ffi.h"

static int
farewell_init(const nbffi_host *host, void **state, char *err,
    uint64_t err_size)
{
    (void) err;
    (void) err_size;

    *state = (void *) host;
    return 0;
}

static int
farewell_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    const nbffi_host  *host = state;

    return host->respond(task, req, len);
}

static void
farewell_close(void *state)
{
    const nbffi_host  *host = state;

    host->log(host, NBFFI_LOG_NOTICE, "closed", 6);
}

static const nbffi_plugin farewell_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    farewell_init, farewell_call, farewell_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &farewell_plugin;
}
