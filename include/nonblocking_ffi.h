/*
 * nonblocking_ffi.h - the plugin ABI of lua-resty-nonblocking-ffi, version 1.3
 *
 * A plugin is a shared object that the host loads into an nginx worker. Lua
 * code sends it requests (bytes); it answers with responses (bytes). The host
 * never calls a plugin on nginx's event loop: every function of a plugin runs
 * on a pool thread, so a plugin may block and compute as long as it likes.
 *
 * A PLUGIN exports one function, by default named nbffi_plugin_entry, that
 * returns a descriptor (nbffi_plugin). A RUNTIME is one such plugin with one
 * configuration: the host calls init once for each runtime, then call from
 * several pool threads at the same time, then close once. A TASK is one
 * request, from the Lua call to its one and only completion.
 *
 * LIFE OF A RUNTIME
 *   entry   Once for each load. Must not block, must not start threads.
 *   init    Once, on a pool thread, before any call.
 *   call    Once for each task, from any pool thread, concurrently.
 *   close   Once, on a pool thread, after the last task of the runtime has
 *           completed and every call has returned. The shared object itself
 *           is never unloaded.
 *   No signal is blocked in threads of the host, nor need it be in others:
 *   what is nginx's reaches nginx.
 *   A worker that is killed, or told to stop at once, does not call close. What
 *   is to happen once at the end of the process is for at_exit. A plugin must
 *   not end the process itself; if it does, not with status 2, after which
 *   nginx starts no other worker (exit(2) is changed to 1, _exit(2) cannot be).
 *
 * TWO KINDS OF PLUGINS
 *   blocking (flags = 0)
 *           When call returns, the task is complete: with what was passed to
 *           one of the respond functions, or with an empty response.
 *   asynchronous (flags = NBFFI_ASYNC)
 *           call only accepts the task. The plugin responds whenever it
 *           likes, from any thread, its own ones included; until then the
 *           task is pending. A task may also be completed inside call.
 *
 * EXACTLY ONCE
 *   Each task is completed by the first respond function called for it. A
 *   later one changes nothing and returns NBFFI_STALE, even long after the
 *   task is gone: task handles carry a generation. What was handed over to a
 *   respond_owned that returned NBFFI_STALE has been released already.
 *
 * OWNERSHIP OF EVERY BUFFER
 *   request            The host's, read-only. Readable from call until the
 *                      task is completed, in an asynchronous plugin too. Not
 *                      NUL-terminated. Aligned to 1 byte.
 *   alloc'd response   The host's. Writable until the task is completed; the
 *                      plugin passes it to respond_buffer or forgets it.
 *   respond            Copies (or refers to the request, if data is a part of
 *                      it); the plugin keeps what it passed.
 *   respond_owned      Passes to the host, which calls release(arg, data)
 *                      exactly once: on nginx's main thread when Lua has the
 *                      response, or before respond_owned returns if it did
 *                      not take the data. It must not block (free() is what
 *                      it is meant for).
 *   config, name       The host's. Readable until close returns.
 *   messages           Copied by the host during the call.
 *   Lengths are 64 bits everywhere, and never include a terminating NUL.
 *
 * THREADS
 *   Every host function may be called from any thread, and none of them
 *   blocks. They may be called for a task from call on, and from init to close
 *   for the runtime. Calling log, config or name after close has returned is
 *   undefined.
 *
 * ERRORS
 *   Functions that return int return NBFFI_OK (0) or one of the negative
 *   codes below. No host function ever aborts or unwinds into the plugin, and
 *   a plugin must not unwind (throw, panic) into the host.
 *
 * COMPATIBILITY
 *   The host accepts plugins with its own major version and a minor version
 *   that is not newer than its own; otherwise load fails, with an error that
 *   names both versions. Structures only grow, at their end, with a new minor
 *   version; `size` says how much of a structure its maker knew.
 *
 * Usable unchanged from C99 and C++11. 64-bit Linux.
 *
 * Copyright (C) the lua-resty-nonblocking-ffi authors. Apache-2.0.
 */
#ifndef NONBLOCKING_FFI_H
#define NONBLOCKING_FFI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NBFFI_ABI_MAJOR 1
#define NBFFI_ABI_MINOR 3
/* What goes into nbffi_plugin.abi_version. */
#define NBFFI_ABI_VERSION \
    (((uint32_t) NBFFI_ABI_MAJOR << 16) | (uint32_t) NBFFI_ABI_MINOR)

/* Marks the entry function as exported, whatever -fvisibility says. */
#define NBFFI_EXPORT __attribute__((visibility("default")))

/* What host functions return. */
enum {
    NBFFI_OK = 0,
    /* The task was completed before (or never existed): nothing was done. */
    NBFFI_STALE = -1,
    /* The response is larger than the runtime's max_response. The task was
     * completed with the error "response too large". */
    NBFFI_TOO_LARGE = -2,
    /* The host is out of memory. The task was completed with the error "no
     * memory". */
    NBFFI_NO_MEMORY = -3,
    /* An argument is wrong (NULL data with a length, more than was
     * allocated). The task is still pending. */
    NBFFI_INVALID = -4
};

/* Levels of log, those of nginx's error_log. */
enum {
    NBFFI_LOG_EMERG = 1,
    NBFFI_LOG_ALERT = 2,
    NBFFI_LOG_CRIT = 3,
    NBFFI_LOG_ERR = 4,
    NBFFI_LOG_WARN = 5,
    NBFFI_LOG_NOTICE = 6,
    NBFFI_LOG_INFO = 7,
    NBFFI_LOG_DEBUG = 8
};

/* Flags of nbffi_plugin. All other bits must be 0; bit 1 is reserved for
 * streamed responses. */
enum {
    NBFFI_ASYNC = 1
};

/* A task: an opaque handle, valid in every thread, never 0. */
typedef uint64_t nbffi_task;

/* deadline_ns of a task that has none. */
#define NBFFI_NO_DEADLINE UINT64_MAX

/* Releases what was handed over to respond_owned. */
typedef void (*nbffi_release_fn)(void *arg, void *data);

/* What at_exit has called. */
typedef void (*nbffi_exit_fn)(void *arg, uint64_t deadline_ns);

/* What on_cancel has called. */
typedef void (*nbffi_cancel_fn)(void *arg, nbffi_task task);

/*
 * The host, as one runtime sees it. `host` arguments are the pointer that
 * init was given; it stays valid until close returns.
 */
typedef struct nbffi_host nbffi_host;
struct nbffi_host {
    uint32_t abi_version;       /* the host's NBFFI_ABI_VERSION */
    uint32_t size;              /* sizeof(nbffi_host) as the host knows it */

    /* Writes msg[0..len) to nginx's error log, with the runtime's name in
     * front. Dropped if level is more verbose than nginx's error_log, and
     * (counted and reported) if thousands are waiting to be written. */
    void (*log)(const nbffi_host *host, int level,
                const char *msg, uint64_t len);

    /* The `config` that load was given, "" if none; NUL-terminated too.
     * *len may be NULL. */
    const char *(*config)(const nbffi_host *host, uint64_t *len);

    /* The runtime's name, NUL-terminated; *len may be NULL. */
    const char *(*name)(const nbffi_host *host, uint64_t *len);

    /* When the caller stops waiting: nanoseconds of CLOCK_MONOTONIC, or
     * NBFFI_NO_DEADLINE. 0 if the task is stale. */
    uint64_t (*deadline_ns)(nbffi_task task);

    /* 1 if the result is not wanted any more: its caller timed out or
     * cancelled it, or it is stale; otherwise 0. Cheap: a long-running task
     * should ask often. (A coroutine that is killed, or whose client hangs up,
     * cancels nothing; deadline_ns bounds such a task.) */
    int (*is_cancelled)(nbffi_task task);

    /* A buffer of at least `size` bytes for the response, uninitialised and
     * aligned to 16 bytes. A second call for the same task invalidates the
     * first buffer. NULL if the task is stale, or if size exceeds
     * max_response or memory is out: the task is then still pending, and a
     * blocking plugin that just returns ends it with the error "response too
     * large" or "no memory". */
    void *(*alloc)(nbffi_task task, uint64_t size);

    /* Completes the task with the first `len` bytes of the alloc'd buffer. */
    int (*respond_buffer)(nbffi_task task, uint64_t len);

    /* Completes the task with a copy of data[0..len). What is a part of the
     * task's request is not even copied. */
    int (*respond)(nbffi_task task, const void *data, uint64_t len);

    /* Completes the task with data[0..len) itself. release(arg, data) is
     * called exactly once, whatever this function returns; release may be
     * NULL for data that lives for ever. */
    int (*respond_owned)(nbffi_task task, void *data, uint64_t len,
                         nbffi_release_fn release, void *arg);

    /* Completes the task with an error. Lua gets nil, "runtime error: <msg>",
     * code, msg; or nil, "timeout" if the deadline has passed. */
    int (*fail)(nbffi_task task, int64_t code, const char *msg, uint64_t len);

    /* Gives a successful response a status of the plugin's own: Lua gets
     * response, nil, code, msg. Completes nothing; call it before
     * responding. */
    int (*set_status)(nbffi_task task, int64_t code,
                      const char *msg, uint64_t len);

    /* Since 1.1. The next task for this runtime, if the one that is next in
     * the pool's queue is for it: returns 1 and the task, its request and its
     * length; otherwise 0. For plugins that pay to be entered (a lock to take,
     * a thread to attach): they run several tasks in one call. Only inside
     * call, on the thread that call was made on; elsewhere it returns 0. It
     * never waits. A plugin that got 0 returns from call soon: a task for
     * somebody else may be waiting for this thread.
     * A blocking plugin completes a task before it asks for the next one;
     * otherwise the task ends with an empty response. What call returns is
     * about the last task that it got. */
    int (*next)(const nbffi_host *host, nbffi_task *task,
                const void **req, uint64_t *len);

    /* Since 1.2. As next, but waits until there is a task, as the thread would
     * outside of call: it spins while tasks follow each other closely, and then
     * sleeps. Returns 0 if the thread is wanted elsewhere; then return from
     * call soon. For plugins that pay much to be entered. Not with a lock held
     * that other threads need. */
    int (*await_next)(const nbffi_host *host, nbffi_task *task,
                      const void **req, uint64_t *len);

    /* Since 1.3. Has fn(arg, deadline_ns) called once when nginx ends the
     * worker: on quit and reload, and on stop as far as there is time. For what
     * belongs to the process and not to a runtime: closing the runtime does not
     * take it back, and adding the same fn and arg again changes nothing.
     * It is called on a thread of its own, beside those of other plugins, after
     * runtimes with nothing in flight have been closed. Other runtimes may still
     * be inside of call; log, config and name may be called if the runtime
     * whose host that is has not been closed. The process ends when all
     * have returned, and soon after deadline_ns of CLOCK_MONOTONIC if they have
     * not. Then buffers of C's FILEs are flushed; handlers of atexit and
     * destructors of libraries do not run.
     * Returns NBFFI_OK; NBFFI_INVALID if fn is NULL; NBFFI_NO_MEMORY. */
    int (*at_exit)(const nbffi_host *host, nbffi_exit_fn fn, void *arg);

    /* Since 1.3. Has fn(arg, task) called once when nobody waits for the task
     * any more: its caller gave up, or its deadline passed. is_cancelled then
     * says 1. If that is so already, fn is called soon. A second call for the
     * same task replaces fn and arg. A task that does not ask costs nothing.
     * fn runs on one thread of the host for all runtimes. It must be short, and
     * must not wait for a lock that may be held for long (an interpreter's, for
     * instance): then pass the handle to a thread of your own. fn may call every
     * host function except next and await_next; it may fail the task.
     * fn is not called for a task that has ended, though it may be running while
     * another thread ends the task. close waits for it: it neither runs nor will
     * run once close is called. So arg must be valid until then: pass the state
     * of the runtime, and find the task by its handle.
     * Returns NBFFI_OK; NBFFI_STALE; NBFFI_INVALID if fn is NULL; or
     * NBFFI_NO_MEMORY, also if there is no thread: the task is then still
     * pending, and fn is not called. */
    int (*on_cancel)(nbffi_task task, nbffi_cancel_fn fn, void *arg);
};

/* What a plugin is. A static constant of the plugin. */
typedef struct nbffi_plugin {
    uint32_t abi_version;       /* NBFFI_ABI_VERSION */
    uint32_t size;              /* sizeof(nbffi_plugin) */
    uint32_t flags;             /* 0 or NBFFI_ASYNC */
    uint32_t reserved;          /* 0 */

    /* Prepares one runtime. On success returns 0 and stores what call and
     * close are to be given in *state (NULL is fine). On failure returns
     * non-zero and may write a NUL-terminated message to err[0..err_size):
     * load returns it, and close is not called. May be NULL. */
    int (*init)(const nbffi_host *host, void **state,
                char *err, uint64_t err_size);

    /* Runs (blocking) or accepts (asynchronous) one task. Returns 0, or
     * non-zero to fail it: Lua then gets "runtime error: code <n>", unless the
     * task has been completed already. Must not be NULL. */
    int (*call)(void *state, nbffi_task task,
                const void *req, uint64_t len);

    /* Ends the runtime: an asynchronous plugin stops its threads here. May be
     * NULL. */
    void (*close)(void *state);
} nbffi_plugin;

/*
 * The entry function. host_abi_version is the host's NBFFI_ABI_VERSION. The
 * descriptor it returns lives as long as the process; NULL refuses the host.
 */
typedef const nbffi_plugin *(*nbffi_plugin_entry_fn)(uint32_t host_abi_version);

NBFFI_EXPORT const nbffi_plugin *nbffi_plugin_entry(uint32_t host_abi_version);

#ifdef __cplusplus
}
#endif

#endif /* NONBLOCKING_FFI_H */
