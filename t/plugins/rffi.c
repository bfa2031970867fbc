/*
 * rffi - a plugin of lua-resty-ffi that does with a task what the request says.
 *
 * It uses nothing but the three functions of that interface, which nobody
 * defines here: the host does.
 *
 * Words of cfg, cut apart in place as loaders do:
 *     pollers=<n>     so many threads poll, 1 by default
 *     rc=<n>          libffi_init starts nothing and returns n
 *     signals         libffi_init takes over signals of nginx's
 *     farewell        libffi_init registers a handler that must not run at exit
 *     label=<text>    what "label" answers
 *
 * Requests: a verb and, behind a blank, an argument; see serve(). One without
 * a request gets "no request".
 */
#define _GNU_SOURCE

#include <ctype.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void *ngx_http_lua_ffi_task_poll(void *tq);
char *ngx_http_lua_ffi_get_req(void *tsk, int *len);
void ngx_http_lua_ffi_respond(void *tsk, int rc, char *rsp, int rsp_len);

#define HELD 16384
#define POLLERS 400

typedef struct {
    void  *tq;
    char   label[64];
    int    pollers; /* guarded by lock; who ends last frees it */
} runtime;

typedef struct {
    runtime  *rt;
    int       number;
} poller;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* Guarded by lock. */
static int inits, asking, polled, nulls;
static int stopped;             /* pollers wait before they poll again */
static void *held[HELD];
static int holding;
static int met;

static int
add(int *counter, int n)
{
    int  now;

    pthread_mutex_lock(&lock);
    *counter += n;
    now = *counter;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return now;
}

/* What tests ask, on nginx's thread. */
int rffi_inits(void) { return add(&inits, 0); }
int rffi_asking(void) { return add(&asking, 0); }
int rffi_polled(void) { return add(&polled, 0); }
int rffi_nulls(void) { return add(&nulls, 0); }
int rffi_holding(void) { return add(&holding, 0); }

/* While stopped, nobody starts to poll. */
void
rffi_stop(int stop)
{
    pthread_mutex_lock(&lock);
    stopped = stop;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* Responds to all tasks that were held; on the thread that calls it. */
int
rffi_release(const char *text)
{
    void  *tasks[HELD];
    int    i, n;

    pthread_mutex_lock(&lock);
    n = holding;
    memcpy(tasks, held, sizeof(void *) * (size_t) n);
    holding = 0;
    pthread_mutex_unlock(&lock);
    for (i = 0; i < n; i++) {
        ngx_http_lua_ffi_respond(tasks[i], 0, strdup(text), 0);
    }
    return n;
}

static void
say(void *task, const char *text)
{
    ngx_http_lua_ffi_respond(task, 0, strdup(text), 0);
}

static char *
copy(const void *data, int len)
{
    char *to = malloc((size_t) len);

    memcpy(to, data, (size_t) len);
    return to;
}

static void
nap(int ms)
{
    struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

    nanosleep(&time, NULL);
}

/* Every mistake that a handle allows. */
static void
misuse(void *task)
{
    uintptr_t  word = (uintptr_t) task;
    void      *wrong[] = {
        NULL, (void *) 1, (void *) -1, (void *) &word,
        (void *) (word + 1), (void *) (word + 16), (void *) (word ^ 1),
        (void *) (word + ((uintptr_t) 1 << 24)), (void *) (word >> 8),
        (void *) (word | 0xfffff0),
    };
    size_t     i;
    int        len;

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        /* One that happens to be somebody else's task would be ours to
         * answer for, so only tasks that cannot be there are tried. */
        len = -1;
        if (ngx_http_lua_ffi_get_req(wrong[i], &len) != NULL || len != 0) {
            continue;
        }
        ngx_http_lua_ffi_respond(wrong[i], 0, NULL, 0);
        ngx_http_lua_ffi_respond(wrong[i], 1, strdup("wrong"), 5);
    }
}

static void
serve(poller *me, void *task)
{
    char  *req, *arg, *again, verb[32], *end, text[64];
    int    len, n;

    req = ngx_http_lua_ffi_get_req(task, &len);
    if (req == NULL) {
        say(task, len == 0 ? "no request" : "a length without a request");
        return;
    }
    if (req[len] != '\0' || ngx_http_lua_ffi_get_req(task, NULL) != req) {
        say(task, "wrong request");
        return;
    }
    n = (int) strcspn(req, " ");
    n = n < 31 ? n : 31;
    memcpy(verb, req, (size_t) n);
    verb[n] = '\0';
    arg = req[n] == ' ' ? req + n + 1 : req + n;
    n = atoi(arg);

    if (strcmp(verb, "echo") == 0) {
        /* All of it, whatever bytes. */
        ngx_http_lua_ffi_respond(task, 0, copy(req, len), len);

    } else if (strcmp(verb, "cstr") == 0) {
        ngx_http_lua_ffi_respond(task, 0, strdup(arg), 0);

    } else if (strcmp(verb, "unterminated") == 0) {
        again = malloc((size_t) n);
        /* As much as there is, for sure, is not NUL. */
        memset(again, 'x', (size_t) n);
        ngx_http_lua_ffi_respond(task, 0, again, 0);

    } else if (strcmp(verb, "nothing") == 0) {
        ngx_http_lua_ffi_respond(task, n, NULL, 0);

    } else if (strcmp(verb, "fail") == 0) {
        strtol(arg, &end, 10);
        ngx_http_lua_ffi_respond(task, n, strdup(end + (*end == ' ')), 0);

    } else if (strcmp(verb, "fail_bytes") == 0) {
        ngx_http_lua_ffi_respond(task, n, copy("a\0b", 3), 3);

    } else if (strcmp(verb, "big") == 0) {
        again = malloc((size_t) n);
        memset(again, 'b', (size_t) n);
        ngx_http_lua_ffi_respond(task, 0, again, n);

    } else if (strcmp(verb, "negative") == 0) {
        ngx_http_lua_ffi_respond(task, n, strdup("x"), -1);

    } else if (strcmp(verb, "length") == 0) {
        snprintf(text, sizeof(text), "%d", len);
        say(task, text);

    } else if (strcmp(verb, "upper") == 0) {
        /* The request is the plugin's to change. */
        for (again = arg; *again != '\0'; again++) {
            *again = (char) toupper((unsigned char) *again);
        }
        arg = ngx_http_lua_ffi_get_req(task, NULL) + strlen(verb) + 1;
        ngx_http_lua_ffi_respond(task, 0, strdup(arg), 0);

    } else if (strcmp(verb, "twice") == 0) {
        say(task, "first");
        say(task, "second");
        ngx_http_lua_ffi_respond(task, 7, NULL, 0);

    } else if (strcmp(verb, "later") == 0) {
        say(task, "first");
        /* The task's place has been taken by another one by now. */
        nap(n);
        say(task, "second");

    } else if (strcmp(verb, "misuse") == 0) {
        misuse(task);
        say(task, "survived");

    } else if (strcmp(verb, "sleep") == 0) {
        nap(n);
        say(task, "slept");

    } else if (strcmp(verb, "meet") == 0) {
        /* Each waits until n threads are here. */
        pthread_mutex_lock(&lock);
        met++;
        pthread_cond_broadcast(&changed);
        n *= (met + n - 1) / n;
        while (met < n) {
            pthread_cond_wait(&changed, &lock);
        }
        pthread_mutex_unlock(&lock);
        say(task, "met");

    } else if (strcmp(verb, "hold") == 0) {
        pthread_mutex_lock(&lock);
        held[holding++ % HELD] = task;
        pthread_mutex_unlock(&lock);

    } else if (strcmp(verb, "poller") == 0) {
        snprintf(text, sizeof(text), "%d", me->number);
        say(task, text);

    } else if (strcmp(verb, "label") == 0) {
        say(task, me->rt->label);

    } else {
        ngx_http_lua_ffi_respond(task, 400, strdup("no such verb"), 12);
    }
}

static void *
run(void *arg)
{
    poller  *me = arg;
    void    *task;

    for ( ;; ) {
        pthread_mutex_lock(&lock);
        while (stopped) {
            pthread_cond_wait(&changed, &lock);
        }
        asking++;
        pthread_mutex_unlock(&lock);
        task = ngx_http_lua_ffi_task_poll(me->rt->tq);
        add(&asking, -1);
        if (task == NULL) {
            break;
        }
        add(&polled, 1);
        serve(me, task);
    }
    /* Once more than it should. */
    add(&nulls, ngx_http_lua_ffi_task_poll(me->rt->tq) == NULL ? 1 : 1000);
    if (add(&me->rt->pollers, -1) == 0) {
        free(me->rt);
    }
    free(me);
    return NULL;
}

static void
ignore(int number)
{
    (void) number;
}

int
libffi_init(char *cfg, void *tq)
{
    runtime    *rt = calloc(1, sizeof(runtime));
    char       *word;
    int         n, pollers = 1, rc = 0;
    pthread_t   thread;

    add(&inits, 1);
    rt->tq = tq;
    strcpy(rt->label, cfg == NULL ? "no cfg" : "");
    while ((word = strsep(&cfg, " ")) != NULL) {
        if (sscanf(word, "pollers=%d", &pollers) == 1
            || sscanf(word, "rc=%d", &rc) == 1
            || sscanf(word, "label=%63s", rt->label) == 1)
        {
            continue;
        }
        if (strcmp(word, "signals") == 0) {
            signal(SIGTERM, ignore);
            signal(SIGQUIT, ignore);
            signal(SIGPIPE, SIG_DFL);
        } else if (strcmp(word, "farewell") == 0) {
            atexit(abort);
        }
    }
    if (rc != 0 || pollers > POLLERS) {
        free(rt);
        return rc;
    }
    rt->pollers = pollers;
    for (n = 0; n < pollers; n++) {
        poller *me = malloc(sizeof(poller));

        me->rt = rt;
        me->number = n;
        if (pthread_create(&thread, NULL, run, me) != 0) {
            return 1;
        }
        pthread_detach(thread);
    }
    return 0;
}
