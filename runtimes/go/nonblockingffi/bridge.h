/*
 * The two sides of a Go plugin: the plugin ABI in C, and Go.
 *
 * C enters Go when a pool thread brings work (nbffiGoServe), and to make and
 * end a runtime. Go calls the functions below; one call is one crossing, which
 * costs some 50 ns, so each does all that there is to do at that point.
 */
#ifndef NBFFI_GO_BRIDGE_H
#define NBFFI_GO_BRIDGE_H

#include <stdint.h>

#include "nonblocking_ffi.h"

/* How many tasks a pool thread hands over to goroutines in one crossing. */
#define NBFFI_GO_TASKS 32

typedef struct {
    nbffi_task   task;
    const void  *req;
    uint64_t     len;
} nbffi_go_task;

/* A pool thread that is inside call, with the tasks that it has brought. In its
 * stack, so only Go code on that thread may use it. */
typedef struct {
    const nbffi_host  *host;
    uint64_t           instance;    /* the runtime's number on the Go side */
    uint64_t           since_ns;    /* when it came, CLOCK_MONOTONIC */
    uint64_t           now_ns;      /* set by *_next */
    uint64_t           tick_ns;     /* the coarse clock, see NBFFI_GO_LONG */
    nbffi_go_task      tasks[NBFFI_GO_TASKS];
} nbffi_go_batch;

/* nbffi_go_remaining of a task without a deadline. */
#define NBFFI_GO_NO_DEADLINE INT64_MAX

/* Results of the functions that get the next task. */
enum {
    NBFFI_GO_OVER,      /* there is none */
    NBFFI_GO_NEXT,      /* it is tasks[0] */
    NBFFI_GO_LONG       /* the same, and some milliseconds have passed since the
                         * thread came, or this was said last */
};

/* On the thread of a batch: completes tasks[0] and gets the next task into its
 * place. Sets now_ns, unless NBFFI_GO_NEXT is returned. */
int nbffi_go_respond_next(nbffi_go_batch *batch, const char *data,
                          uint64_t len);
int nbffi_go_fail_next(nbffi_go_batch *batch, int64_t code, const char *msg,
                       uint64_t len);

/* On the thread of a batch: gets up to NBFFI_GO_TASKS more tasks, and returns
 * how many. */
int nbffi_go_take(nbffi_go_batch *batch);

/* On the thread of a batch: waits for the next task, and sets since_ns.
 * NBFFI_GO_OVER: the thread is to go. */
int nbffi_go_await(nbffi_go_batch *batch);

/* On any thread. */
void nbffi_go_respond(const nbffi_host *host, nbffi_task task,
                      const char *data, uint64_t len);
void nbffi_go_fail(const nbffi_host *host, nbffi_task task, int64_t code,
                   const char *msg, uint64_t len);
void nbffi_go_set_status(const nbffi_host *host, nbffi_task task,
                         int64_t code, const char *msg, uint64_t len);
void nbffi_go_log(const nbffi_host *host, int level, const char *msg,
                  uint64_t len);
const char *nbffi_go_config(const nbffi_host *host, uint64_t *len);
const char *nbffi_go_name(const nbffi_host *host, uint64_t *len);

/* Nanoseconds until the deadline of a task, not positive if it has passed. */
int64_t nbffi_go_remaining(const nbffi_host *host, nbffi_task task);

/* Whether nobody waits for a task any more. */
int nbffi_go_is_cancelled(const nbffi_host *host, nbffi_task task);

/* Says where the handles of such tasks are to be written: a pipe, whose end for
 * writing does not block. Once, before the first nbffi_go_on_cancel. */
void nbffi_go_cancellations(int pipe);

/* 1, once, if some could not be written. */
int nbffi_go_cancellations_lost(void);

/* Has the task's handle written when nobody waits for it any more. 0 if that is not
 * to be had from this host. */
int nbffi_go_on_cancel(const nbffi_host *host, nbffi_task task);

/* 1 if SIGPIPE did not end the process when this library was loaded. */
int nbffi_go_sigpipe_is_harmless(void);

/* Restores the handler of SIGPIPE of that time. */
void nbffi_go_give_sigpipe_back(void);

/* The entry of language = "go"; its config is fields, see config.go. The usual
 * nbffi_plugin_entry takes the config as it is. */
NBFFI_EXPORT const nbffi_plugin *nbffi_go_entry(uint32_t host_abi_version);

#endif /* NBFFI_GO_BRIDGE_H */
