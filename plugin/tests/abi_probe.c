/*
 * Prints what abi.rs compares with sys.rs, and does not compile if the type of
 * a function differs from the one that abi.rs coerces it to.
 */
#include <stddef.h>
#include <stdio.h>

#include "nonblocking_ffi.h"

/* All 64 bits, as a signed number. */
#define CONSTANT(c) printf(#c " %lld\n", (long long) (c))
#define SIZE(t) printf(#t " %zu\n", sizeof(t))
#define OFFSET(t, f) printf(#t "." #f " %zu\n", offsetof(t, f))
#define TYPE(t, f, ...) \
    _Static_assert(__builtin_types_compatible_p( \
        __typeof__(((t *) 0)->f), __VA_ARGS__), "type of " #f)

TYPE(nbffi_host, log, void (*)(const nbffi_host *, int, const char *, uint64_t));
TYPE(nbffi_host, config, const char *(*)(const nbffi_host *, uint64_t *));
TYPE(nbffi_host, name, const char *(*)(const nbffi_host *, uint64_t *));
TYPE(nbffi_host, deadline_ns, uint64_t (*)(uint64_t));
TYPE(nbffi_host, is_cancelled, int (*)(uint64_t));
TYPE(nbffi_host, alloc, void *(*)(uint64_t, uint64_t));
TYPE(nbffi_host, respond_buffer, int (*)(uint64_t, uint64_t));
TYPE(nbffi_host, respond, int (*)(uint64_t, const void *, uint64_t));
TYPE(nbffi_host, respond_owned,
     int (*)(uint64_t, void *, uint64_t, void (*)(void *, void *), void *));
TYPE(nbffi_host, fail, int (*)(uint64_t, int64_t, const char *, uint64_t));
TYPE(nbffi_host, set_status, int (*)(uint64_t, int64_t, const char *, uint64_t));
TYPE(nbffi_host, next,
     int (*)(const nbffi_host *, uint64_t *, const void **, uint64_t *));
TYPE(nbffi_host, await_next,
     int (*)(const nbffi_host *, uint64_t *, const void **, uint64_t *));
TYPE(nbffi_host, at_exit,
     int (*)(const nbffi_host *, void (*)(void *, uint64_t), void *));
TYPE(nbffi_host, on_cancel,
     int (*)(uint64_t, void (*)(void *, uint64_t), void *));
TYPE(nbffi_plugin, init, int (*)(const nbffi_host *, void **, char *, uint64_t));
TYPE(nbffi_plugin, call, int (*)(void *, uint64_t, const void *, uint64_t));
TYPE(nbffi_plugin, close, void (*)(void *));
_Static_assert(__builtin_types_compatible_p(nbffi_plugin_entry_fn,
    const nbffi_plugin *(*)(uint32_t)), "type of the entry function");

int
main(void)
{
    CONSTANT(NBFFI_ABI_MAJOR);
    CONSTANT(NBFFI_ABI_MINOR);
    CONSTANT(NBFFI_ABI_VERSION);
    CONSTANT(NBFFI_OK);
    CONSTANT(NBFFI_STALE);
    CONSTANT(NBFFI_TOO_LARGE);
    CONSTANT(NBFFI_NO_MEMORY);
    CONSTANT(NBFFI_INVALID);
    CONSTANT(NBFFI_LOG_EMERG);
    CONSTANT(NBFFI_LOG_ALERT);
    CONSTANT(NBFFI_LOG_CRIT);
    CONSTANT(NBFFI_LOG_ERR);
    CONSTANT(NBFFI_LOG_WARN);
    CONSTANT(NBFFI_LOG_NOTICE);
    CONSTANT(NBFFI_LOG_INFO);
    CONSTANT(NBFFI_LOG_DEBUG);
    CONSTANT(NBFFI_ASYNC);
    CONSTANT(NBFFI_NO_DEADLINE);

    SIZE(nbffi_host);
    OFFSET(nbffi_host, abi_version);
    OFFSET(nbffi_host, size);
    OFFSET(nbffi_host, log);
    OFFSET(nbffi_host, config);
    OFFSET(nbffi_host, name);
    OFFSET(nbffi_host, deadline_ns);
    OFFSET(nbffi_host, is_cancelled);
    OFFSET(nbffi_host, alloc);
    OFFSET(nbffi_host, respond_buffer);
    OFFSET(nbffi_host, respond);
    OFFSET(nbffi_host, respond_owned);
    OFFSET(nbffi_host, fail);
    OFFSET(nbffi_host, set_status);
    OFFSET(nbffi_host, next);
    OFFSET(nbffi_host, await_next);
    OFFSET(nbffi_host, at_exit);
    OFFSET(nbffi_host, on_cancel);

    SIZE(nbffi_plugin);
    OFFSET(nbffi_plugin, abi_version);
    OFFSET(nbffi_plugin, size);
    OFFSET(nbffi_plugin, flags);
    OFFSET(nbffi_plugin, reserved);
    OFFSET(nbffi_plugin, init);
    OFFSET(nbffi_plugin, call);
    OFFSET(nbffi_plugin, close);

    SIZE(nbffi_task);
    return 0;
}
