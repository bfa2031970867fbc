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
 *   - and if it is in a C function that compiled code has called, as a loop
 *     that polls or sleeps always is, makes that function return to a
 *     trampoline, which leaves the VM in the same way. The place of its return
 *     address follows from unwinding tables (unwind.c).
 *   In other C code, the handler does nothing: the watchdog tries again.
 *   While the VM is being closed, finalizers run, which LuaJIT runs without
 *   hooks. Then the handler leaves LuaJIT's own code, too: nobody uses the VM
 *   after that, and LuaJIT holds no lock.
 */
#include "guard.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int lua_pcall(lua_State *L, int nargs, int nresults, int errfunc);
int lua_sethook(lua_State *L, void (*hook)(lua_State *, lua_Debug *),
                int mask, int count);
int luaL_error(lua_State *L, const char *format, ...);
void lua_close(lua_State *L);

/* LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT */
#define EVERYTHING 15

/* The guard of what the thread runs. No thread-local variable: of a library that
 * is opened late, some are allocated at first use, which a handler must not do,
 * and the others ("initial-exec") musl refuses, and glibc has little room for.
 * To read a key takes neither lock nor memory. */
static pthread_key_t current;
/* The signal. */
static int signal_number;

void
nbffi_guard_leave(void)
{
    nbffi_guard *guard = pthread_getspecific(current);

    siglongjmp(guard->jump, 1);
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
    nbffi_guard *guard = pthread_getspecific(current);

    (void) signal;
    (void) info;
    if (guard == NULL) {
        return;
    }
    atomic_store(&guard->signalled, 0);
    if (!guard->armed || atomic_load(&guard->stop) != guard->run) {
        return;
    }
    if (!guard->hooked && !guard->closing) {
        guard->hooked = 1;
        lua_sethook(guard->L, raise_error, EVERYTHING, 1);
        return;
    }
    if (guard->nested) {
        return;
    }
    if (nbffi_unwind_may_leave(guard, context)) {
        siglongjmp(guard->jump, 1);
    }
    nbffi_unwind_redirect(guard, context);
}

/* Installs the handler for a signal that nobody uses. Returns its number, or 0
 * if there is none. */
int
nbffi_guard_install(void)
{
    static int has_key;

    if (!has_key && pthread_key_create(&current, NULL) != 0) {
        return 0;
    }
    has_key = 1;
    for (int number = SIGRTMIN + 6; number < SIGRTMAX; number++) {
        struct sigaction action = {0}, before;

        if (sigaction(number, NULL, &before) != 0
            || (before.sa_flags & SA_SIGINFO) != 0
            || before.sa_handler != SIG_DFL)
        {
            continue;
        }
        action.sa_sigaction = on_signal;
        /* ONSTACK: Go, which a VM may call, runs on small stacks, and has an
         * alternate one then. */
        action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        if (sigaction(number, &action, NULL) == 0) {
            signal_number = number;
            return number;
        }
    }
    return 0;
}

/* A guard of a VM of the calling thread; NULL if there is no memory. */
nbffi_guard *
nbffi_guard_new(lua_State *L)
{
    nbffi_guard *guard = calloc(1, sizeof(nbffi_guard));
    pthread_attr_t attributes;
    void *lowest;
    size_t size;

    /* A thread's first value may take memory: this one, so that `arm` cannot
     * fail. */
    if (guard == NULL || pthread_getattr_np(pthread_self(), &attributes) != 0) {
        free(guard);
        return NULL;
    }
    pthread_attr_getstack(&attributes, &lowest, &size);
    pthread_attr_destroy(&attributes);
    guard->lowest = (uintptr_t) lowest;
    guard->L = L;
    if (pthread_setspecific(current, guard) != 0) {
        free(guard);
        return NULL;
    }
    pthread_setspecific(current, NULL);
    return guard;
}

void
nbffi_guard_free(nbffi_guard *guard)
{
    free(guard);
}

/* From the watchdog: what runs as `run`, in this thread, is to be stopped. */
void
nbffi_guard_stop(nbffi_guard *guard, int run, pid_t thread)
{
    atomic_store(&guard->stop, run);
    if (!atomic_exchange(&guard->signalled, 1)
        && syscall(SYS_tgkill, getpid(), thread, signal_number) != 0)
    {
        atomic_store(&guard->signalled, 0);
    }
}

/* From the watchdog: takes the address of code that has no unwind row, or 0. */
uintptr_t
nbffi_guard_unknown(nbffi_guard *guard)
{
    return atomic_exchange(&guard->unknown, 0);
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

static void
arm(nbffi_guard *guard, int run, void *floor)
{
    guard->run = run;
    guard->floor = (uintptr_t) floor;
    pthread_setspecific(current, guard);
    atomic_signal_fence(memory_order_seq_cst);
    guard->armed = 1;
    /* A signal that came before may have found no guard to tell that to. */
    atomic_store(&guard->signalled, 0);
}

static void
disarm(nbffi_guard *guard)
{
    guard->armed = 0;
    atomic_signal_fence(memory_order_seq_cst);
    pthread_setspecific(current, NULL);
}

/* After siglongjmp, which does not restore the mask: to have sigsetjmp save it
 * would be a system call for each task. */
static int
abandon(nbffi_guard *guard)
{
    sigset_t set;

    disarm(guard);
    sigemptyset(&set);
    sigaddset(&set, signal_number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return ABANDONED;
}

/* lua_pcall, as run number `run` (not 0); ABANDONED if it was left. */
int
nbffi_guard_call(nbffi_guard *guard, int run, int nargs, int errfunc)
{
    int status;

    if (sigsetjmp(guard->jump, 0) != 0) {
        return abandon(guard);
    }
    arm(guard, run, __builtin_frame_address(0));
    status = lua_pcall(guard->L, nargs, 0, errfunc);
    disarm(guard);
    return status;
}

/* nbffi_guard_call for a function that only collects garbage. LuaJIT runs
 * finalizers without hooks, as it does in lua_close. */
int
nbffi_guard_collect(nbffi_guard *guard, int run)
{
    int status;

    guard->closing = 1;
    status = nbffi_guard_call(guard, run, 0, 0);
    guard->closing = 0;
    return status;
}

/* lua_close, likewise: 0, or ABANDONED. */
int
nbffi_guard_close(nbffi_guard *guard, int run)
{
    guard->closing = 1;
    if (sigsetjmp(guard->jump, 0) != 0) {
        return abandon(guard);
    }
    arm(guard, run, __builtin_frame_address(0));
    lua_close(guard->L);
    disarm(guard);
    return 0;
}
