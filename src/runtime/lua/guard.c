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
 *     trampoline, which leaves the VM in the same way.
 *   In other C code, the handler does nothing: the watchdog tries again.
 *   While the VM is being closed, finalizers run, which LuaJIT runs without
 *   hooks. Then the handler leaves LuaJIT's own code, too: nobody uses the VM
 *   after that, and LuaJIT holds no lock.
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
void lua_close(lua_State *L);

/* LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT */
#define EVERYTHING 15
/* What nbffi_guard_call returns if it was left by siglongjmp. */
#define ABANDONED (-1)
#define MAX_RANGES 2048

typedef struct nbffi_guard {
    sigjmp_buf jump;
    lua_State *L;
    /* Whether the thread is inside nbffi_guard_call or nbffi_guard_close. */
    volatile sig_atomic_t armed;
    /* Whether nothing runs in there but finalizers. */
    volatile sig_atomic_t closing;
    /* Whether the hook is set. */
    volatile sig_atomic_t hooked;
    /* Whether the VM has called into another runtime: its compiled code is not
     * ours to leave. */
    volatile sig_atomic_t nested;
    /* What is being run, and what is to be stopped: numbers of runs. */
    volatile sig_atomic_t run;
    _Atomic int stop;
    /* The stack above the frame that calls Lua. */
    uintptr_t *floor;
} nbffi_guard;

/* initial-exec: a handler must not allocate, as other models may. */
static __thread nbffi_guard *current
    __attribute__((tls_model("initial-exec")));

/* Where compiled code may be: executable memory that is no file's; and where
 * LuaJIT itself is, and whether nothing else is there: it may be a part of the
 * nginx program. Written by the watchdog before it sends a signal; odd versions
 * are being written. */
static struct { uintptr_t start, end; } ranges[MAX_RANGES], luajit;
static _Atomic int luajit_is_alone;
static _Atomic unsigned ranges_count;
static _Atomic unsigned ranges_version;

void
nbffi_guard_ranges(const uintptr_t *bounds, unsigned count,
                   uintptr_t luajit_start, uintptr_t luajit_end, int alone)
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
    luajit.start = luajit_start;
    luajit.end = luajit_end;
    atomic_store(&luajit_is_alone, alone);
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

/* Where a C function that was called by compiled code returns to, once the
 * thread is to leave its VM. It gets there by a return, so the stack may not be
 * aligned as for a call. */
void nbffi_guard_leave(void);
void nbffi_guard_trampoline(void);

void
nbffi_guard_leave(void)
{
    siglongjmp(current->jump, 1);
}

#if defined(__x86_64__)

__asm__(
    ".text\n"
    ".hidden nbffi_guard_trampoline\n"
    ".hidden nbffi_guard_leave\n"
    ".globl nbffi_guard_trampoline\n"
    ".type nbffi_guard_trampoline, @function\n"
    "nbffi_guard_trampoline:\n"
    "    .cfi_startproc\n"
    "    .cfi_undefined rip\n"
    "    andq $-16, %rsp\n"
    "    call nbffi_guard_leave\n"
    "    ud2\n"
    "    .cfi_endproc\n"
    ".size nbffi_guard_trampoline, . - nbffi_guard_trampoline\n"
);

/* Whether there is a call right before an address. */
static int
is_after_call(uintptr_t address)
{
    const unsigned char *code = (const unsigned char *) address;

    /* call rel32; call reg, call [reg], call [reg + disp8] or [sib],
     * call [sib + disp8], call [reg + disp32] or [rip + disp32] */
    return code[-5] == 0xe8
           || (code[-2] == 0xff && (code[-1] & 0x38) == 0x10)
           || (code[-3] == 0xff && (code[-2] & 0x38) == 0x10)
           || (code[-4] == 0xff && (code[-3] & 0x38) == 0x10)
           || (code[-6] == 0xff && (code[-5] & 0x38) == 0x10);
}

#define registers_of(context) (((ucontext_t *) context)->uc_mcontext.gregs)
#define program_counter(context) ((uintptr_t) registers_of(context)[REG_RIP])
#define stack_pointer(context) ((uintptr_t) registers_of(context)[REG_RSP])
#define return_register(context) NULL

#elif defined(__aarch64__)

__asm__(
    ".text\n"
    ".hidden nbffi_guard_trampoline\n"
    ".hidden nbffi_guard_leave\n"
    ".globl nbffi_guard_trampoline\n"
    ".type nbffi_guard_trampoline, %function\n"
    "nbffi_guard_trampoline:\n"
    "    b nbffi_guard_leave\n"
    ".size nbffi_guard_trampoline, . - nbffi_guard_trampoline\n"
);

static int
is_after_call(uintptr_t address)
{
    uint32_t code = ((const uint32_t *) address)[-1];

    /* bl; blr */
    return (code & 0xfc000000) == 0x94000000
           || (code & 0xfffffc1f) == 0xd63f0000;
}

#define registers_of(context) (((ucontext_t *) context)->uc_mcontext)
#define program_counter(context) ((uintptr_t) registers_of(context).pc)
#define stack_pointer(context) ((uintptr_t) registers_of(context).sp)
#define return_register(context) (&registers_of(context).regs[30])

#else

/* Elsewhere hooks are all there is. */
#define program_counter(context) ((uintptr_t) 0)

#endif

static int
is_luajit(uintptr_t address)
{
    return address >= luajit.start && address < luajit.end;
}

#if defined(__x86_64__) || defined(__aarch64__)

static int
is_return_address(uintptr_t address)
{
    return is_compiled_code(address) && is_compiled_code(address - 8)
           && is_after_call(address);
}

/* Has the C function that the thread is in, if compiled code called it, return
 * to the trampoline. Between compiled code and a function that it calls there
 * is nothing of LuaJIT's: if there is, LuaJIT itself works, on its own code for
 * example, and what looks like a return address may be something else. */
static void
redirect(nbffi_guard *guard, void *context)
{
    unsigned long long *in_register = return_register(context);
    uintptr_t *place = (uintptr_t *) (stack_pointer(context) & ~(uintptr_t) 7);

    if (is_luajit(program_counter(context))) {
        return;
    }
    if (in_register != NULL) {
        if (is_luajit(*in_register)) {
            return;
        }
        if (is_return_address(*in_register)) {
            *in_register = (uintptr_t) nbffi_guard_trampoline;
        }
    }
    for ( ; place < guard->floor && !is_luajit(*place); place++) {
        if (is_return_address(*place)) {
            *place = (uintptr_t) nbffi_guard_trampoline;
            return;
        }
    }
}

#else

static void
redirect(nbffi_guard *guard, void *context)
{
    (void) guard;
    (void) context;
}

#endif

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
    if (!guard->hooked && !guard->closing) {
        guard->hooked = 1;
        lua_sethook(guard->L, raise_error, EVERYTHING, 1);
        return;
    }
    if (guard->nested) {
        return;
    }
    if (is_compiled_code(program_counter(context))
        || (guard->closing && atomic_load(&luajit_is_alone)
            && is_luajit(program_counter(context))))
    {
        siglongjmp(guard->jump, 1);
    }
    redirect(guard, context);
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

static void
arm(nbffi_guard *guard, int run, void *floor)
{
    guard->run = run;
    guard->floor = floor;
    current = guard;
    atomic_signal_fence(memory_order_seq_cst);
    guard->armed = 1;
}

static void
disarm(nbffi_guard *guard)
{
    guard->armed = 0;
    atomic_signal_fence(memory_order_seq_cst);
    current = NULL;
}

/* lua_pcall, as run number `run` (not 0); ABANDONED if it was left. */
int
nbffi_guard_call(nbffi_guard *guard, int run, int nargs, int errfunc)
{
    int status;

    if (sigsetjmp(guard->jump, 0) != 0) {
        disarm(guard);
        return ABANDONED;
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
        disarm(guard);
        return ABANDONED;
    }
    arm(guard, run, __builtin_frame_address(0));
    lua_close(guard->L);
    disarm(guard);
    return 0;
}
