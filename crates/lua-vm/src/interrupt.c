/*
 * interrupt.c - runs Lua code so that it can be stopped.
 *
 * This is C because sigsetjmp cannot be called from Rust, and Lua's errors must not
 * unwind Rust frames. interrupter.rs decides when to stop code.
 *
 * HOW CODE IS STOPPED
 *   The interrupter sends the thread a signal. The handler
 *   1. sets a hook that raises an error at the interpreter's next instruction, as
 *      the luajit program does for Ctrl-C;
 *   2. at later signals, leaves the VM by siglongjmp if the thread is in compiled
 *      code, whose loops never check for hooks. It holds no lock, and all C
 *      functions below it on the stack have called back into Lua. The VM cannot be
 *      used again, nor closed: its memory is released as a whole;
 *   3. or, if compiled code has called a C function, replaces that function's return
 *      address by a trampoline, which leaves the VM in the same way. Unwind tables
 *      tell where the return address is (unwind.c). Loops that poll or sleep spend
 *      nearly all of their time there.
 *   In other C code the handler does nothing, and the interrupter tries again.
 *   LuaJIT runs finalizers without hooks. While the VM is being closed, the handler
 *   also leaves LuaJIT's own code: nobody uses the VM afterwards, and LuaJIT holds no
 *   lock.
 */
#include "interrupt.h"

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

/* What the thread runs. This is not a thread-local variable: in a library that is
 * opened late, some of these are allocated at first use, which a handler must not
 * do; the others ("initial-exec") are refused by musl, and glibc has little room for
 * them. Reading a key takes no lock and no memory. */
static pthread_key_t current;
/* The signal. */
static int signal_number;

void
nbffi_interrupt_leave(void)
{
    nbffi_interrupt *self = pthread_getspecific(current);

    siglongjmp(self->jump, 1);
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
    nbffi_interrupt *self = pthread_getspecific(current);

    (void) signal;
    (void) info;
    if (self == NULL) {
        return;
    }
    atomic_store(&self->signalled, 0);
    if (!self->armed || atomic_load(&self->stop) != self->run) {
        return;
    }
    if (!self->hooked && !self->closing) {
        self->hooked = 1;
        lua_sethook(self->L, raise_error, EVERYTHING, 1);
        return;
    }
    if (self->foreign) {
        return;
    }
    if (nbffi_unwind_may_leave(self, context)) {
        siglongjmp(self->jump, 1);
    }
    nbffi_unwind_redirect(self, context);
}

/* Installs the handler for an unused signal. Returns its number, or 0 if there is
 * none. */
int
nbffi_interrupt_install(void)
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
        /* ONSTACK: a VM may call Go, which runs on small stacks and then has an
         * alternate one. */
        action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        if (sigaction(number, &action, NULL) == 0) {
            signal_number = number;
            return number;
        }
    }
    return 0;
}

/* For a VM of the calling thread; NULL if there is no memory. */
nbffi_interrupt *
nbffi_interrupt_new(lua_State *L)
{
    nbffi_interrupt *self = calloc(1, sizeof(nbffi_interrupt));
    pthread_attr_t attributes;
    void *lowest;
    size_t size;

    /* Setting a thread's first value may allocate. Done here, so that `arm` cannot
     * fail. */
    if (self == NULL || pthread_getattr_np(pthread_self(), &attributes) != 0) {
        free(self);
        return NULL;
    }
    pthread_attr_getstack(&attributes, &lowest, &size);
    pthread_attr_destroy(&attributes);
    self->lowest = (uintptr_t) lowest;
    self->L = L;
    if (pthread_setspecific(current, self) != 0) {
        free(self);
        return NULL;
    }
    pthread_setspecific(current, NULL);
    return self;
}

void
nbffi_interrupt_free(nbffi_interrupt *self)
{
    free(self);
}

/* Called by the interrupter: stops run number `run` of this thread. */
void
nbffi_interrupt_stop(nbffi_interrupt *self, int run, pid_t thread)
{
    atomic_store(&self->stop, run);
    if (!atomic_exchange(&self->signalled, 1)
        && syscall(SYS_tgkill, getpid(), thread, signal_number) != 0)
    {
        atomic_store(&self->signalled, 0);
    }
}

/* Called by the interrupter: takes the address that lacks an unwind row, or 0. */
uintptr_t
nbffi_interrupt_unknown(nbffi_interrupt *self)
{
    return atomic_exchange(&self->unknown, 0);
}

void
nbffi_interrupt_foreign(nbffi_interrupt *self, int foreign)
{
    self->foreign = foreign;
}

/* Whether a stop has begun, so that the VM should not be used any more. */
int
nbffi_interrupt_is_stopped(const nbffi_interrupt *self)
{
    return self->hooked;
}

static void
arm(nbffi_interrupt *self, int run, void *floor)
{
    self->run = run;
    self->floor = (uintptr_t) floor;
    pthread_setspecific(current, self);
    atomic_signal_fence(memory_order_seq_cst);
    self->armed = 1;
    /* An earlier signal may have found no value of the key, and not reset this. */
    atomic_store(&self->signalled, 0);
}

static void
disarm(nbffi_interrupt *self)
{
    self->armed = 0;
    atomic_signal_fence(memory_order_seq_cst);
    pthread_setspecific(current, NULL);
}

/* After siglongjmp, which does not restore the signal mask: saving it would cost a
 * system call for each task. */
static int
abandon(nbffi_interrupt *self)
{
    sigset_t set;

    disarm(self);
    sigemptyset(&set);
    sigaddset(&set, signal_number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return ABANDONED;
}

/* Calls lua_pcall as run number `run` (not 0). Returns its status, or ABANDONED. */
int
nbffi_interrupt_call(nbffi_interrupt *self, int run, int nargs, int errfunc)
{
    int status;

    if (sigsetjmp(self->jump, 0) != 0) {
        return abandon(self);
    }
    arm(self, run, __builtin_frame_address(0));
    status = lua_pcall(self->L, nargs, 0, errfunc);
    disarm(self);
    return status;
}

/* nbffi_interrupt_call for a function that only collects garbage: as in lua_close,
 * finalizers run without hooks. */
int
nbffi_interrupt_collect(nbffi_interrupt *self, int run)
{
    int status;

    self->closing = 1;
    status = nbffi_interrupt_call(self, run, 0, 0);
    self->closing = 0;
    return status;
}

/* Calls lua_close in the same way. Returns 0, or ABANDONED. */
int
nbffi_interrupt_close(nbffi_interrupt *self, int run)
{
    self->closing = 1;
    if (sigsetjmp(self->jump, 0) != 0) {
        return abandon(self);
    }
    arm(self, run, __builtin_frame_address(0));
    lua_close(self->L);
    disarm(self);
    return 0;
}
