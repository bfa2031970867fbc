/*
 * gate - a blocking plugin that waits until a test lets it go on.
 *
 * Requests:
 *     hold <data>    waits for the gate, then answers <data>
 *     watch          waits until its task is cancelled, then answers "seen"
 *     note <data>    adds <data> to the order in which notes ran, answers it
 *
 * The state is the process's, not a runtime's: tests open the same library with
 * LuaJIT's ffi and look at it from nginx's thread while all pool threads hold.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "nonblocking_ffi.h"

/* No task holds longer than this: a test that fails must end all the same. */
#define LIMIT_S 20
/* How often `watch` looks. */
#define LOOK_NS 1000000L

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static struct {
    int open;               /* everybody may pass */
    int permits;            /* so many may pass */
    int started;            /* tasks that call was called for ... */
    int ended;              /* ... and that it has answered */
    int cancelled;          /* what `watch` has seen */
    int inits, closes;
    char order[4096];
} gate;

/* What tests call, on nginx's thread. */

NBFFI_EXPORT void
gate_reset(void)
{
    pthread_mutex_lock(&lock);
    memset(&gate, 0, sizeof(gate));
    pthread_mutex_unlock(&lock);
}

NBFFI_EXPORT void
gate_open(void)
{
    pthread_mutex_lock(&lock);
    gate.open = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

NBFFI_EXPORT void
gate_let(int tasks)
{
    pthread_mutex_lock(&lock);
    gate.permits += tasks;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

#define COUNTER(name)                                                         \
    NBFFI_EXPORT int gate_##name(void)                                        \
    {                                                                         \
        int  n;                                                               \
                                                                              \
        pthread_mutex_lock(&lock);                                            \
        n = gate.name;                                                        \
        pthread_mutex_unlock(&lock);                                          \
        return n;                                                             \
    }

COUNTER(started)
COUNTER(ended)
COUNTER(cancelled)
COUNTER(inits)
COUNTER(closes)

/* The notes, in the order in which they ran. `to` has room for 4096. */
NBFFI_EXPORT void
gate_order(char *to)
{
    pthread_mutex_lock(&lock);
    memcpy(to, gate.order, sizeof(gate.order));
    pthread_mutex_unlock(&lock);
}

static int
gate_init(const nbffi_host *host, void **state, char *err, uint64_t err_size)
{
    (void) err;
    (void) err_size;

    *state = (void *) host;
    pthread_mutex_lock(&lock);
    gate.inits++;
    pthread_mutex_unlock(&lock);
    return 0;
}

static void
hold(void)
{
    struct timespec  limit;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    while (!gate.open && gate.permits == 0) {
        if (pthread_cond_timedwait(&changed, &lock, &limit) != 0) {
            return;
        }
    }
    if (!gate.open) {
        gate.permits--;
    }
}

static void
watch(const nbffi_host *host, nbffi_task task)
{
    int              rounds, seen = 0;
    struct timespec  look = { 0, LOOK_NS };

    for (rounds = 0; rounds < LIMIT_S * 1000 && !seen; rounds++) {
        pthread_mutex_unlock(&lock);
        nanosleep(&look, NULL);
        seen = host->is_cancelled(task);
        pthread_mutex_lock(&lock);
    }
    gate.cancelled += seen;
}

static int
begins(const char *req, uint64_t len, const char *verb)
{
    return len >= strlen(verb) && memcmp(req, verb, strlen(verb)) == 0;
}

static int
gate_call(void *state, nbffi_task task, const void *request, uint64_t len)
{
    const nbffi_host  *host = state;
    const char        *req = request;
    char               data[256];
    size_t             used;

    if (len < 5 || len - 5 > sizeof(data)) {
        return host->fail(task, 400, "unknown request", 15);
    }

    /* When the task is given up while it holds, its request is gone. */
    memcpy(data, req + 5, (size_t) len - 5);

    pthread_mutex_lock(&lock);
    gate.started++;
    if (begins(req, len, "hold ")) {
        hold();
    } else if (begins(req, len, "watch")) {
        watch(host, task);
        memcpy(data, "seen", 4);
        len = 5 + 4;
    } else if (begins(req, len, "note ")) {
        used = strlen(gate.order);
        if (used + len - 5 < sizeof(gate.order)) {
            memcpy(gate.order + used, data, (size_t) len - 5);
        }
    }
    gate.ended++;
    pthread_mutex_unlock(&lock);

    host->respond(task, data, len - 5);
    return 0;
}

static void
gate_close(void *state)
{
    (void) state;

    pthread_mutex_lock(&lock);
    gate.closes++;
    pthread_mutex_unlock(&lock);
}

static const nbffi_plugin gate_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), 0, 0,
    gate_init, gate_call, gate_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &gate_plugin;
}
