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
 *     address follows from unwinding tables, never from what lies on the stack.
 *   In other C code, the handler does nothing: the watchdog tries again.
 *   While the VM is being closed, finalizers run, which LuaJIT runs without
 *   hooks. Then the handler leaves LuaJIT's own code, too: nobody uses the VM
 *   after that, and LuaJIT holds no lock.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
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
#define MAX_ROWS 1024
/* C functions that call each other, from compiled code to where the thread is. */
#define MAX_FRAMES 256

typedef struct nbffi_guard {
    sigjmp_buf jump;
    lua_State *L;
    /* Whether the thread is inside nbffi_guard_call or nbffi_guard_close. */
    volatile sig_atomic_t armed;
    /* Whether it is the latter. */
    volatile sig_atomic_t closing;
    /* Whether the hook is set. */
    volatile sig_atomic_t hooked;
    /* Whether the VM has called into another runtime: its compiled code is not
     * ours to leave. */
    volatile sig_atomic_t nested;
    /* What is being run, and what is to be stopped: numbers of runs. */
    volatile sig_atomic_t run;
    _Atomic int stop;
    /* The thread's stack: its lowest address, and the frame that calls Lua. */
    uintptr_t lowest, floor;
    /* Code that the handler has met and has no unwind row for, or 0. */
    _Atomic uintptr_t unknown;
} nbffi_guard;

/* The guard of what the thread runs. No thread-local variable: of a library that
 * is opened late, some are allocated at first use, which a handler must not do,
 * and the others ("initial-exec") musl refuses, and glibc has little room for.
 * To read a key takes neither lock nor memory. */
static pthread_key_t current;

/* How a frame is unwound while the thread is at one of these addresses: unwind.rs
 * has the same structure. The CFA is the stack pointer of the caller. */
typedef struct nbffi_unwind_row {
    uintptr_t start, end;
    /* The CFA is a register plus this; or is in memory there. */
    int32_t cfa_offset;
    /* Where the return address is, from the CFA on, unless in a register. */
    int32_t return_offset;
    /* Where the caller's frame pointer is, from `frame_base` on. */
    int32_t frame_offset;
    uint8_t cfa_base, cfa_in_memory, return_in_register, frame_base;
} nbffi_unwind_row;

enum { STACK_POINTER, FRAME_POINTER };
enum { UNCHANGED, FROM_CFA, FROM_FRAME_POINTER };

/* What the watchdog tells handlers before it sends signals: where compiled code
 * may be, which is executable memory that is no file's; where LuaJIT itself is,
 * and whether nothing else is there, since it may be a part of the nginx program;
 * and unwind rows, sorted by address. Odd versions are being written. */
static struct {
    _Atomic unsigned version;
    unsigned ranges_count, rows_count;
    struct { uintptr_t start, end; } ranges[MAX_RANGES], luajit;
    int luajit_is_alone;
    nbffi_unwind_row rows[MAX_ROWS];
} known;

/* Whether nothing has been written since this version: what was read is right. */
static int
is_current(unsigned version)
{
    /* Acquire: what was read before is read before the version is. Partner of
     * the fences in `begin_telling` and `end_telling`. */
    atomic_thread_fence(memory_order_acquire);
    return version % 2 == 0 && version == atomic_load(&known.version);
}

static void
begin_telling(void)
{
    atomic_fetch_add(&known.version, 1);
    atomic_thread_fence(memory_order_seq_cst);
}

static void
end_telling(void)
{
    atomic_thread_fence(memory_order_seq_cst);
    atomic_fetch_add(&known.version, 1);
}

void
nbffi_guard_ranges(const uintptr_t *bounds, unsigned count,
                   uintptr_t luajit_start, uintptr_t luajit_end, int alone)
{
    begin_telling();
    known.ranges_count = count < MAX_RANGES ? count : MAX_RANGES;
    for (unsigned i = 0; i < known.ranges_count; i++) {
        known.ranges[i].start = bounds[2 * i];
        known.ranges[i].end = bounds[2 * i + 1];
    }
    known.luajit.start = luajit_start;
    known.luajit.end = luajit_end;
    known.luajit_is_alone = alone;
    end_telling();
}

void
nbffi_guard_rows(const nbffi_unwind_row *rows, unsigned count)
{
    begin_telling();
    known.rows_count = count < MAX_ROWS ? count : MAX_ROWS;
    for (unsigned i = 0; i < known.rows_count; i++) {
        known.rows[i] = rows[i];
    }
    end_telling();
}

static int
is_compiled_code(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    unsigned count = known.ranges_count;
    int found = 0;

    for (unsigned i = 0; i < count && !found; i++) {
        found = address >= known.ranges[i].start
                && address < known.ranges[i].end;
    }
    return found && is_current(version);
}

/* Whether an address may be LuaJIT's; whether it is, and nobody else's. */
static int
may_be_luajit(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    int found = address >= known.luajit.start && address < known.luajit.end;

    return found || !is_current(version);
}

static int
is_luajit_alone(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    int found = known.luajit_is_alone && address >= known.luajit.start
                && address < known.luajit.end;

    return found && is_current(version);
}

/* Finds the unwind row of an address. */
static int
find_row(uintptr_t address, nbffi_unwind_row *row)
{
    unsigned version = atomic_load(&known.version);
    unsigned low = 0, high = known.rows_count;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        *row = known.rows[middle];
        if (address < row->start) {
            high = middle;
        } else if (address >= row->end) {
            low = middle + 1;
        } else {
            return is_current(version);
        }
    }
    return 0;
}

/* Where a C function that was called by compiled code returns to, once the
 * thread is to leave its VM. It gets there by a return, so the stack may not be
 * aligned as for a call. */
void nbffi_guard_leave(void);
void nbffi_guard_trampoline(void);

void
nbffi_guard_leave(void)
{
    nbffi_guard *guard = pthread_getspecific(current);

    siglongjmp(guard->jump, 1);
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
#define frame_pointer(context) ((uintptr_t) registers_of(context)[REG_RBP])
#define return_register(context) ((unsigned long long *) NULL)

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
#define frame_pointer(context) ((uintptr_t) registers_of(context).regs[29])
#define return_register(context) (&registers_of(context).regs[30])

#else

/* Elsewhere hooks are all there is. */
#define program_counter(context) ((uintptr_t) 0)

#endif

#if defined(__x86_64__) || defined(__aarch64__)

/* A frame that is being unwound. */
typedef struct {
    uintptr_t code, stack, frame;
} unwound;

/* The tables say where a return address is; that it follows a call is asked for
 * all the same, as some compilers' tables are wrong in a function's last
 * instructions. */
static int
is_return_address(uintptr_t address)
{
    return is_compiled_code(address) && is_compiled_code(address - 8)
           && is_after_call(address);
}

/* The word at an address of the stack between a frame and the one that calls Lua;
 * NULL if it is not there. */
static uintptr_t *
word_at(const nbffi_guard *guard, const unwound *frame, uintptr_t address)
{
    if (address % sizeof(uintptr_t) != 0 || frame->stack < guard->lowest
        || address < frame->stack || address >= guard->floor)
    {
        return NULL;
    }
    return (uintptr_t *) address;
}

/* The stack pointer of a frame's caller; 0 if it cannot be right. */
static uintptr_t
find_cfa(const nbffi_guard *guard, const unwound *frame,
         const nbffi_unwind_row *row)
{
    uintptr_t cfa = row->cfa_base == FRAME_POINTER ? frame->frame
                                                   : frame->stack;

    cfa += (intptr_t) row->cfa_offset;
    if (row->cfa_in_memory) {
        uintptr_t *place = word_at(guard, frame, cfa);

        cfa = place == NULL ? 0 : *place;
    }
    return cfa >= frame->stack && cfa <= guard->floor ? cfa : 0;
}

/* Has the C function that the thread is in, if compiled code called it, return
 * to the trampoline. What lies between may be C functions only: if LuaJIT's own
 * code does, it is not for us to leave. */
static void
redirect(nbffi_guard *guard, void *context)
{
    unwound frame = {
        program_counter(context), stack_pointer(context),
        frame_pointer(context)
    };
    unsigned long long *in_register = return_register(context);

    for (int depth = 0; depth < MAX_FRAMES; depth++) {
        nbffi_unwind_row row;
        uintptr_t cfa, caller, *place = NULL;
        /* A call may be the last instruction of its function. */
        uintptr_t code = frame.code - (depth > 0);

        if (may_be_luajit(frame.code)
            || frame.code == (uintptr_t) nbffi_guard_trampoline)
        {
            return;
        }
        if (!find_row(code, &row)) {
            atomic_store(&guard->unknown, code);
            return;
        }
        cfa = find_cfa(guard, &frame, &row);
        if (cfa == 0) {
            return;
        }
        if (row.return_in_register) {
            if (in_register == NULL || depth > 0) {
                return;
            }
            caller = *in_register;
            if (is_return_address(caller)) {
                *in_register = (uintptr_t) nbffi_guard_trampoline;
                return;
            }
        } else {
            place = word_at(guard, &frame, cfa + (intptr_t) row.return_offset);
            if (place == NULL) {
                return;
            }
            caller = *place;
            if (is_return_address(caller)) {
                *place = (uintptr_t) nbffi_guard_trampoline;
                return;
            }
        }
        if (row.frame_base != UNCHANGED) {
            place = word_at(guard, &frame, (intptr_t) row.frame_offset
                            + (row.frame_base == FROM_CFA ? cfa : frame.frame));
            if (place == NULL) {
                return;
            }
            frame.frame = *place;
        }
        frame.code = caller;
        frame.stack = cfa;
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
    nbffi_guard *guard = pthread_getspecific(current);

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
        || (guard->closing && is_luajit_alone(program_counter(context))))
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
        /* NODEFER: siglongjmp does not restore the mask. */
        action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        if (sigaction(number, &action, NULL) == 0) {
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

/* From the watchdog: what runs as `run` is to be stopped. */
void
nbffi_guard_stop(nbffi_guard *guard, int run)
{
    atomic_store(&guard->stop, run);
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
}

static void
disarm(nbffi_guard *guard)
{
    guard->armed = 0;
    atomic_signal_fence(memory_order_seq_cst);
    pthread_setspecific(current, NULL);
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
