/*
 * unwind.c - where an interrupted thread is: in compiled code, in a C function
 * that compiled code has called, or elsewhere.
 *
 * A C function is unwound by the tables that its compiler has written. A signal
 * handler cannot read those, so it works with rows of them that the watchdog has
 * read before (unwind.rs), and notes in its guard what it has no row for.
 */
#include "guard.h"

#include <stddef.h>
#include <ucontext.h>

#define MAX_RANGES 2048
#define MAX_ROWS 1024
/* C functions that call each other, from compiled code to where the thread is. */
#define MAX_FRAMES 256

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

/* Whether it is LuaJIT's, and nobody else's. */
static int
is_luajit_alone(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    int found = known.luajit_is_alone && address >= known.luajit.start
                && address < known.luajit.end;

    return found && is_current(version);
}

/* Where a C function that was called by compiled code returns to, once the
 * thread is to leave its VM. It gets there by a return, so the stack may not be
 * aligned as for a call. */
void nbffi_guard_trampoline(void);

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
#define program_counter(context) ((void) (context), (uintptr_t) 0)

#endif

#if defined(__x86_64__) || defined(__aarch64__)

/* Whether an address may be LuaJIT's. */
static int
may_be_luajit(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    int found = address >= known.luajit.start && address < known.luajit.end;

    return found || !is_current(version);
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
void
nbffi_unwind_redirect(nbffi_guard *guard, void *context)
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

void
nbffi_unwind_redirect(nbffi_guard *guard, void *context)
{
    (void) guard;
    (void) context;
}

#endif

int
nbffi_unwind_may_leave(const nbffi_guard *guard, void *context)
{
    return is_compiled_code(program_counter(context))
           || (guard->closing && is_luajit_alone(program_counter(context)));
}
