/*
 * late - an asynchronous plugin that responds when a test says so, from a
 * thread of its own.
 *
 * A request is a key. call notes the task under it and returns; the test then
 * has the plugin's thread do something with the task of that key, any number
 * of times, long after the task is gone as well: late_do() is called on
 * nginx's thread and returns what the host function returned on the plugin's.
 *
 *     !<key>   call responds "at once" itself
 *     ?<key>   call returns 7 without responding
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "nonblocking_ffi.h"

#define TASKS 256
#define KEY_BYTES 64

typedef struct {
    char         key[KEY_BYTES];
    nbffi_task   task;
    const void  *req;
    uint64_t     len;
    int          told;          /* how often on_cancel said that it is unwanted */
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* Guarded by lock. */
static const nbffi_host *host;
static entry tasks[TASKS];
static int used;
static int users;               /* runtimes; the first starts the thread */
static int stop;
static int releases;
static pthread_t thread;

/* The command that waits for the thread, and its result. */
static const char *key, *action, *data;
static uint64_t data_len;
static int busy, result;

static void
release(void *arg, void *owned)
{
    (void) arg;

    free(owned);
    /* Also called from respond_owned, below, which runs without the lock. */
    pthread_mutex_lock(&lock);
    releases++;
    pthread_mutex_unlock(&lock);
}

/* What on_cancel calls: arg is the entry. */
static void
told(void *arg, nbffi_task task)
{
    entry  *e = arg;

    pthread_mutex_lock(&lock);
    /* A task that is not the entry's, or is wanted, is none to be told of. */
    e->told += e->task == task && host->is_cancelled(task) ? 1 : 100;
    pthread_mutex_unlock(&lock);
}

/* The last task of a key. */
static entry *
find(const char *wanted)
{
    int  i;

    for (i = used - 1; i >= 0; i--) {
        if (strcmp(tasks[i].key, wanted) == 0) {
            return &tasks[i];
        }
    }
    return NULL;
}

/* On the plugin's thread, without the lock. */
static int
act(entry *e)
{
    void  *copy;

    if (strcmp(action, "respond") == 0) {
        return host->respond(e->task, data, data_len);
    }
    if (strcmp(action, "request") == 0) {
        return host->respond(e->task, e->req, e->len);
    }
    if (strcmp(action, "buffer") == 0) {
        copy = host->alloc(e->task, data_len);
        if (copy == NULL) {
            return 1;
        }
        memcpy(copy, data, (size_t) data_len);
        return host->respond_buffer(e->task, data_len);
    }
    if (strcmp(action, "owned") == 0) {
        copy = malloc((size_t) data_len + 1);
        memcpy(copy, data, (size_t) data_len);
        return host->respond_owned(e->task, copy, data_len, release, NULL);
    }
    if (strcmp(action, "fail") == 0) {
        return host->fail(e->task, -9, data, data_len);
    }
    if (strcmp(action, "status") == 0) {
        return host->set_status(e->task, 206, data, data_len);
    }
    if (strcmp(action, "cancelled") == 0) {
        return host->is_cancelled(e->task);
    }
    if (strcmp(action, "watch") == 0) {
        return host->on_cancel(e->task, data_len ? NULL : told, e);
    }
    if (strcmp(action, "deadline") == 0) {
        return host->deadline_ns(e->task) != 0;
    }
    if (strcmp(action, "alloc") == 0) {
        return host->alloc(e->task, data_len) != NULL;
    }
    if (strcmp(action, "log") == 0) {
        host->log(host, NBFFI_LOG_WARN, data, data_len);
        return 0;
    }
    return -100;
}

static void *
run(void *arg)
{
    entry  *e;
    int     code;

    (void) arg;

    pthread_mutex_lock(&lock);
    while (!stop) {
        if (!busy) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        e = find(key);
        code = -100;
        if (e != NULL) {
            /* Nobody writes to it any more, but for what told counts. */
            pthread_mutex_unlock(&lock);
            code = act(e);
            pthread_mutex_lock(&lock);
        }
        result = code;
        busy = 0;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* What tests call, on nginx's thread. -100: no such key or action. */
NBFFI_EXPORT int
late_do(const char *the_key, const char *the_action, const char *the_data,
    uint64_t len)
{
    int  code;

    pthread_mutex_lock(&lock);
    if (users == 0) {
        pthread_mutex_unlock(&lock);
        return -100;
    }
    key = the_key;
    action = the_action;
    data = the_data;
    data_len = len;
    busy = 1;
    pthread_cond_broadcast(&changed);
    while (busy) {
        pthread_cond_wait(&changed, &lock);
    }
    code = result;
    pthread_mutex_unlock(&lock);
    return code;
}

/* Whether call was called with this key. */
NBFFI_EXPORT int
late_has(const char *the_key)
{
    int  found;

    pthread_mutex_lock(&lock);
    found = find(the_key) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

/* How often the plugin was told that nobody wants the task of this key. */
NBFFI_EXPORT int
late_told(const char *the_key)
{
    int     n;
    entry  *e;

    pthread_mutex_lock(&lock);
    e = find(the_key);
    n = e == NULL ? -1 : e->told;
    pthread_mutex_unlock(&lock);
    return n;
}

NBFFI_EXPORT int
late_released(void)
{
    int  n;

    pthread_mutex_lock(&lock);
    n = releases;
    pthread_mutex_unlock(&lock);
    return n;
}

NBFFI_EXPORT int
late_users(void)
{
    int  n;

    pthread_mutex_lock(&lock);
    n = users;
    pthread_mutex_unlock(&lock);
    return n;
}

static int
late_init(const nbffi_host *the_host, void **state, char *err,
    uint64_t err_size)
{
    int  failed = 0;

    (void) err;
    (void) err_size;

    *state = NULL;
    pthread_mutex_lock(&lock);
    host = the_host;
    if (users == 0) {
        stop = 0;
        /* The signal mask is inherited: this is a thread of the host. */
        failed = pthread_create(&thread, NULL, run, NULL);
    }
    users += !failed;
    pthread_mutex_unlock(&lock);
    return failed;
}

static int
late_call(void *state, nbffi_task task, const void *req, uint64_t len)
{
    entry             *e;
    const nbffi_host  *at;
    const char        *text = req;

    (void) state;

    pthread_mutex_lock(&lock);
    at = host;
    if (used == TASKS || len >= KEY_BYTES) {
        pthread_mutex_unlock(&lock);
        return 1;
    }
    e = &tasks[used++];
    memcpy(e->key, req, (size_t) len);
    e->key[len] = '\0';
    e->task = task;
    e->req = req;
    e->len = len;
    pthread_mutex_unlock(&lock);

    /* From here on the thread may complete the task at any time. */
    if (len > 0 && text[0] == '!') {
        at->respond(task, "at once", 7);
        return 0;
    }
    return len > 0 && text[0] == '?' ? 7 : 0;
}

static void
late_close(void *state)
{
    int  last;

    (void) state;

    pthread_mutex_lock(&lock);
    last = --users == 0;
    stop = last;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (last) {
        pthread_join(thread, NULL);
    }
}

static const nbffi_plugin late_plugin = {
    NBFFI_ABI_VERSION, sizeof(nbffi_plugin), NBFFI_ASYNC, 0,
    late_init, late_call, late_close
};

const nbffi_plugin *
nbffi_plugin_entry(uint32_t host_abi_version)
{
    (void) host_abi_version;
    return &late_plugin;
}
