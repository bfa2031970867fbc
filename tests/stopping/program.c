/*
 * program.c LIBRARY - opens the C part that stops Lua code, as LuaJIT opens the
 * core, and stops loops with it. This program has the Lua functions that it calls.
 * A few instructions in memory without a file stand for compiled code.
 * tests/stopping.rs builds it with each C library there is. For x86-64.
 */
#include "interrupt.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition);    \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

/* Milliseconds until something counts as never happening. */
#define PATIENCE 30000

/* A C function that waits a moment, with a frame of 24 bytes in between. */
void wait_a_moment(void);
extern const char wait_begun[], wait_over[], wait_end[];
__asm__(
    ".text\n"
    ".globl wait_a_moment, wait_begun, wait_over, wait_end\n"
    "wait_a_moment:\n"
    "    subq $24, %rsp\n"
    "wait_begun:\n"
    "    movl $100000, %ecx\n"
    "1:  pause\n"
    "    decl %ecx\n"
    "    jnz 1b\n"
    "    addq $24, %rsp\n"
    "wait_over:\n"
    "    ret\n"
    "wait_end:\n"
);

/* jmp to itself. */
static const unsigned char endless[] = {0xeb, 0xfe};
/* push rbx; mov rbx, rdi; some nops, as code never begins with a call;
 * call rbx; jmp back to the call. */
static const unsigned char calling[] = {
    0x53, 0x48, 0x89, 0xfb, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd3, 0xeb, 0xfc
};

static __typeof__(&nbffi_interrupt_install) install;
static __typeof__(&nbffi_interrupt_new) new;
static __typeof__(&nbffi_interrupt_free) release;
static __typeof__(&nbffi_interrupt_stop) stop;
static __typeof__(&nbffi_interrupt_unknown) unknown;
static __typeof__(&nbffi_interrupt_is_stopped) is_stopped;
static __typeof__(&nbffi_interrupt_call) call;
static __typeof__(&nbffi_unwind_ranges) tell_ranges;
static __typeof__(&nbffi_unwind_rows) tell_rows;

static int number;
static void *code;

/* The thread's next job, and its result: 0 while the job runs. */
typedef struct {
    const unsigned char *body;
    size_t size;
    nbffi_interrupt *_Atomic interrupt;
    _Atomic pid_t thread;
    _Atomic int started, result;
} job;

static job jobs[16];
static _Atomic int job_count;
static _Atomic int opened;

/* What the library takes from LuaJIT. */
int
lua_pcall(lua_State *L, int nargs, int nresults, int errfunc)
{
    const job *doing = (const job *) L;

    (void) nargs, (void) nresults, (void) errfunc;
    memcpy(code, doing->body, doing->size);
    CHECK(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
    ((void (*)(void (*)(void))) code)(wait_a_moment);
    return 0;
}

int
lua_sethook(lua_State *L, void (*hook)(lua_State *, lua_Debug *), int mask,
            int count)
{
    (void) L, (void) hook, (void) mask, (void) count;
    return 1;
}

int
luaL_error(lua_State *L, const char *format, ...)
{
    (void) L, (void) format;
    abort();
}

void
lua_close(lua_State *L)
{
    (void) L;
}

static void
block_all(void)
{
    sigset_t set;

    sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void
unblock(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void
await(_Atomic int *word, int value)
{
    for (int i = 0; atomic_load(word) < value; i++) {
        CHECK(i < PATIENCE);
        usleep(1000);
    }
}

/* A thread with VMs, which was there before the library or not. */
static void *
thread(void *argument)
{
    (void) argument;
    await(&opened, 1);
    for (int i = 0; ; i++) {
        await(&job_count, i + 1);
        if (jobs[i].body == NULL) {
            return NULL;
        }
        CHECK(mprotect(code, 4096, PROT_READ | PROT_WRITE) == 0);
        atomic_store(&jobs[i].interrupt, new((lua_State *) &jobs[i]));
        CHECK(jobs[i].interrupt != NULL);
        atomic_store(&jobs[i].thread, (pid_t) syscall(SYS_gettid));
        /* Once: a thread that was stopped can be stopped again. */
        if (i == 0) {
            unblock();
        }
        atomic_store(&jobs[i].started, 1);
        atomic_store(&jobs[i].result, call(jobs[i].interrupt, 7, 0, 0));
    }
}

static job *
begin(const unsigned char *body, size_t size)
{
    job *begun = &jobs[job_count];

    begun->body = body;
    begun->size = size;
    atomic_fetch_add(&job_count, 1);
    if (body != NULL) {
        await(&begun->started, 1);
    }
    return begun;
}

/* Signals until the job was left; or, if `wanted` is, until its handler has met
 * code that it has no row for, which is returned. */
static uintptr_t
stop_it(job *what, int wanted)
{
    for (int i = 0; i < PATIENCE; i++) {
        uintptr_t met = unknown(what->interrupt);

        if (wanted && met != 0) {
            return met;
        }
        if (atomic_load(&what->result) != 0) {
            CHECK(!wanted);
            CHECK(what->result == ABANDONED);
            CHECK(is_stopped(what->interrupt));
            release(what->interrupt);
            return 0;
        }
        stop(what->interrupt, 7, what->thread);
        usleep(1000);
    }
    CHECK(!"it runs on");
    return 0;
}

static void
try_all(pthread_t runner)
{
    uintptr_t bounds[2] = {(uintptr_t) code, (uintptr_t) code + 4096};
    uintptr_t begun = (uintptr_t) wait_begun, over = (uintptr_t) wait_over,
              end = (uintptr_t) wait_end, met;
    nbffi_unwind_row rows[] = {
        {.start = begun, .end = over, .cfa_offset = 32, .return_offset = -8},
        {.start = over, .end = end, .cfa_offset = 8, .return_offset = -8},
    };
    job *what;

    /* Many signals at once: the thread does not take them yet. With a frame of
     * the stack for each it would not survive that. */
    for (int i = 0; i < 1000; i++) {
        pthread_kill(runner, number);
    }
    tell_rows(NULL, 0);
    tell_ranges(bounds, 1, 0, 0, 0);
    stop_it(begin(endless, sizeof(endless)), 0);

    /* In a C function that is not known, nothing happens; once it is, it ends
     * and the thread is elsewhere. */
    what = begin(calling, sizeof(calling));
    met = stop_it(what, 1);
    CHECK(met >= (uintptr_t) wait_a_moment && met < end);
    tell_rows(rows, 2);
    stop_it(what, 0);

    /* If LuaJIT's code is on the way, it is left alone. That compiled code is
     * interrupted instead, and left, is not to be expected so often. */
    tell_ranges(bounds, 1, (uintptr_t) wait_a_moment, end, 1);
    for (int attempt = 0; ; attempt++) {
        CHECK(attempt < 3);
        what = begin(calling, sizeof(calling));
        for (int i = 0; i < 20 && what->result == 0; i++) {
            stop(what->interrupt, 7, what->thread);
            for (int j = 0; what->interrupt->signalled && j < PATIENCE; j++) {
                usleep(1000);
            }
        }
        if (what->result == 0) {
            break;
        }
        release(what->interrupt);
    }
    tell_ranges(bounds, 1, 0, 0, 0);
    stop_it(what, 0);
}

/* A thread that does not take the signal gets one, not one with each attempt. */
static void
try_many(void)
{
    nbffi_interrupt *interrupt = new(NULL);
    struct timespec none = {0, 0};
    sigset_t set;
    int taken = 0;

    CHECK(interrupt != NULL);
    sigemptyset(&set);
    sigaddset(&set, number);
    for (int i = 0; i < 100; i++) {
        stop(interrupt, 7, (pid_t) syscall(SYS_gettid));
    }
    while (sigtimedwait(&set, NULL, &none) == number) {
        taken++;
    }
    CHECK(taken == 1);
    release(interrupt);
}

int
main(int count, char **arguments)
{
    pthread_t before, after;
    pthread_attr_t small;
    void *library;

    CHECK(count == 2);
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 131072);
    block_all();
    CHECK(pthread_create(&before, &small, thread, NULL) == 0);
    library = dlopen(arguments[1], RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
#define FIND(variable, name)                                                   \
    CHECK((variable = (__typeof__(variable)) dlsym(library, #name)) != NULL)
    FIND(install, nbffi_interrupt_install);
    FIND(new, nbffi_interrupt_new);
    FIND(release, nbffi_interrupt_free);
    FIND(stop, nbffi_interrupt_stop);
    FIND(unknown, nbffi_interrupt_unknown);
    FIND(is_stopped, nbffi_interrupt_is_stopped);
    FIND(call, nbffi_interrupt_call);
    FIND(tell_ranges, nbffi_unwind_ranges);
    FIND(tell_rows, nbffi_unwind_rows);
    CHECK((number = install()) > 0);
    try_many();
    atomic_store(&opened, 1);
    try_all(before);
    begin(NULL, 0);
    pthread_join(before, NULL);

    memset(jobs, 0, sizeof(jobs));
    atomic_store(&job_count, 0);
    CHECK(pthread_create(&after, &small, thread, NULL) == 0);
    try_all(after);
    begin(NULL, 0);
    pthread_join(after, NULL);

    /* A thread without a VM does not mind the signal. */
    unblock();
    CHECK(raise(number) == 0);
    puts("all were stopped");
    return 0;
}
