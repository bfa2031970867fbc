/*
 * guard.c - runs Lua code that may have to be stopped.
 *
 * sigsetjmp cannot be called from Rust, and an error of Lua's must not unwind
 * a Rust frame: hence this file. watchdog.rs says when somebody is stopped.
 *
 * STOPPING
 *   The watchdog sends a signal to the thread. Its handler
 *   - first sets a hook that raises an error at the next instruction that the
 *     interpreter executes, as the luajit program does for Ctrl-C;
 *   - then, as a loop of compiled code never looks at hooks, leaves the VM by
 *     siglongjmp if the thread is in compiled code at that moment. Compiled
 *     code holds no lock, and no C function is on the stack but such as called
 *     back into Lua. The VM is in no state to be used again, not even to be
 *     closed: its memory is released as a whole.
 *   In C code, the handler does nothing: the watchdog tries again.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <ucontext.h>

typedef struct lua_State lua_State;
typedef struct lua_Debug lua_Debug;

int lua_pcall(lua_State *L, int nargs, int nresults, int errfunc);
int lua_sethook(lua_State *L, void (*hook)(lua_State *, lua_Debug *),
                int mask, int count);
int luaL_error(lua_State *L, const char *format, ...);

/* LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT */
#define EVERYTHING 15
/* What nbffi_guard_call returns if it was left by siglongjmp. */
#define ABANDONED (-1)
#define MAX_RANGES 2048

typedef struct nbffi_guard {
    sigjmp_buf jump;
    lua_State *L;
    /* Whether the thread is inside nbffi_guard_call. */
    volatile sig_atomic_t armed;
    /* Whether the hook is set. */
    volatile sig_atomic_t hooked;
    /* Whether the VM has called into another runtime: its compiled code is not
     * ours to leave. */
    volatile sig_atomic_t nested;
    /* What is being run, and what is to be stopped: numbers of runs. */
    volatile sig_atomic_t run;
    _Atomic int stop;
} nbffi_guard;

/* initial-exec: a handler must not allocate, as other models may. */
static __thread nbffi_guard *current
    __attribute__((tls_model("initial-exec")));

/* Where compiled code may be: executable memory that is no file's. Written by
 * the watchdog before it sends a signal; odd versions are being written. */
static struct { uintptr_t start, end; } ranges[MAX_RANGES];
static _Atomic unsigned ranges_count;
static _Atomic unsigned ranges_version;

void
nbffi_guard_ranges(const uintptr_t *bounds, unsigned count)
{
    unsigned version = atomic_load(&ranges_version);

    if (count > MAX_RANGES) {
        count = MAX_RANGES;
    }
    atomic_store(&ranges_version, version + 1);
    atomic_thread_fence(memory_order_seq_cst);
    for (unsigned i = 0; i < count; i++) {
        ranges[i].start = bounds[2 * i];
        ranges[i].end = bounds[2 * i + 1];
    }
    atomic_store(&ranges_count, count);
    atomic_store(&ranges_version, version + 2);
}

static int
is_compiled_code(uintptr_t address)
{
    unsigned version = atomic_load(&ranges_version);
    unsigned count = atomic_load(&ranges_count);
    int found = 0;

    for (unsigned i = 0; i < count && !found; i++) {
        found = address >= ranges[i].start && address < ranges[i].end;
    }
    return found && version % 2 == 0
           && version == atomic_load(&ranges_version);
}

static uintptr_t
program_counter(void *context)
{
#if defined(__x86_64__)
    return (uintptr_t) ((ucontext_t *) context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t) ((ucontext_t *) context)->uc_mcontext.pc;
#else
    (void) context;
    return 0;
#endif
}

static void
raise_error(lua_State *L, lua_Debug *record)
{
    (void) record;
    luaL_error(L, "stopped: its caller has given up");
}

static void
on_signal(int signal, siginfo_t *info, void *context)
{
    nbffi_guard *guard = current;

    (void) signal;
    (void) info;
    if (guard == NULL || !guard->armed
        || atomic_load(&guard->stop) != guard->run)
    {
        return;
    }
    if (!guard->hooked) {
        guard->hooked = 1;
        lua_sethook(guard->L, raise_error, EVERYTHING, 1);
        return;
    }
    if (!guard->nested && is_compiled_code(program_counter(context))) {
        siglongjmp(guard->jump, 1);
    }
}

/* Installs the handler for a signal that nobody uses. Returns its number, or 0
 * if there is none. */
int
nbffi_guard_install(void)
{
    for (int number = SIGRTMIN + 6; number < SIGRTMAX; number++) {
        struct sigaction action = {0}, before;

        if (sigaction(number, NULL, &before) != 0
            || (before.sa_flags & SA_SIGINFO) != 0
            || before.sa_handler != SIG_DFL)
        {
            continue;
        }
        action.sa_sigaction = on_signal;
        /* NODEFER: siglongjmp does not restore the mask. */
        action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        if (sigaction(number, &action, NULL) == 0) {
            return number;
        }
    }
    return 0;
}

nbffi_guard *
nbffi_guard_new(lua_State *L)
{
    nbffi_guard *guard = calloc(1, sizeof(nbffi_guard));

    if (guard != NULL) {
        guard->L = L;
    }
    return guard;
}

void
nbffi_guard_free(nbffi_guard *guard)
{
    free(guard);
}

/* From the watchdog: what runs as `run` is to be stopped. */
void
nbffi_guard_stop(nbffi_guard *guard, int run)
{
    atomic_store(&guard->stop, run);
}

void
nbffi_guard_nest(nbffi_guard *guard, int nested)
{
    guard->nested = nested;
}

/* Whether a stop has begun. Nothing should run in the VM any more. */
int
nbffi_guard_is_stopped(const nbffi_guard *guard)
{
    return guard->hooked;
}

/* lua_pcall, as run number `run` (not 0); ABANDONED if it was left. */
int
nbffi_guard_call(nbffi_guard *guard, int run, int nargs, int errfunc)
{
    int status;

    if (sigsetjmp(guard->jump, 0) != 0) {
        guard->armed = 0;
        current = NULL;
        return ABANDONED;
    }
    guard->run = run;
    current = guard;
    atomic_signal_fence(memory_order_seq_cst);
    guard->armed = 1;
    status = lua_pcall(guard->L, nargs, 0, errfunc);
    guard->armed = 0;
    atomic_signal_fence(memory_order_seq_cst);
    current = NULL;
    return status;
}
