/*
 * deep_calls.c - no plugin, but functions that VM code calls through LuaJIT's
 * FFI, in loops. Each waits a millisecond inside of some frame that makes its
 * return address hard to find, and counts in `cells` how often it was entered (2)
 * and left (3), and how many words of its own somebody else has changed (4).
 */
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ENTERED 2
#define LEFT 3
#define CHANGED 4
#define WORDS 1000

typedef volatile int32_t cell;

/* What compiled code calls, and so what has a return address into it. */
#define CALLED __attribute__((noinline, visibility("default")))

static void
wait_a_moment(void)
{
    poll(NULL, 0, 1);
}

/* Waits with a stack full of one word, which nobody may change. */
static __attribute__((noinline)) void
wait_among(cell *cells, uintptr_t word)
{
    volatile uintptr_t words[WORDS];

    for (size_t i = 0; i < WORDS; i++) {
        words[i] = word;
    }
    wait_a_moment();
    for (size_t i = 0; i < WORDS; i++) {
        cells[CHANGED] += words[i] != word;
    }
}

/* As an earlier call from compiled code leaves it behind. */
CALLED void
among_return_addresses(cell *cells)
{
    cells[ENTERED]++;
    wait_among(cells, (uintptr_t) __builtin_return_address(0));
    cells[LEFT]++;
}

/* As LuaJIT leaves it behind. `address` is one of its functions. */
CALLED void
among_addresses(cell *cells, const void *address)
{
    cells[ENTERED]++;
    wait_among(cells, (uintptr_t) address);
    cells[LEFT]++;
}

/* Its frame is found through the frame pointer alone, at a place in memory. */
CALLED void
aligned(cell *cells)
{
    volatile char bytes[256] __attribute__((aligned(128)));

    cells[ENTERED]++;
    bytes[0] = 1;
    wait_a_moment();
    cells[CHANGED] += (uintptr_t) bytes % 128 != 0 || bytes[0] != 1;
    cells[LEFT]++;
}

CALLED void
of_variable_size(cell *cells, int size)
{
    volatile char bytes[size];

    cells[ENTERED]++;
    memset((char *) bytes, 0xff, (size_t) size);
    wait_a_moment();
    cells[CHANGED] += bytes[size - 1] != (char) 0xff;
    cells[LEFT]++;
}

/* Many frames, some with and some without a frame pointer in use. */
static __attribute__((noinline)) int
descend(int depth)
{
    volatile char bytes[16 + depth % 3 * 100];

    bytes[0] = (char) depth;
    if (depth == 0) {
        wait_a_moment();
        return 0;
    }
    return descend(depth - 1) + (bytes[0] == (char) depth);
}

CALLED void
recursive(cell *cells, int depth)
{
    cells[ENTERED]++;
    cells[CHANGED] += descend(depth) != depth;
    cells[LEFT]++;
}

/* More than one page, most of them never touched. */
CALLED void
large(cell *cells)
{
    volatile char bytes[300000];

    cells[ENTERED]++;
    bytes[0] = bytes[sizeof(bytes) - 1] = 1;
    wait_a_moment();
    cells[CHANGED] += bytes[0] != 1 || bytes[sizeof(bytes) - 1] != 1;
    cells[LEFT]++;
}

/* Ends by a jump: the function that waits returns to compiled code itself. */
CALLED int
jumps(cell *cells)
{
    cells[ENTERED]++;
    cells[LEFT]++;
    return poll(NULL, 0, 1);
}

/* Computes, so that the signal comes at any instruction of several functions. */
static __attribute__((noinline)) uint32_t
mixed(uint32_t number)
{
    return (number ^ (number >> 16)) * 0x45d9f3bu;
}

CALLED void
computes(cell *cells)
{
    uint32_t number = 1, other = 1;

    cells[ENTERED]++;
    for (int i = 0; i < 100000; i++) {
        number += mixed(number + (uint32_t) i);
        other = mixed(other) ^ number;
    }
    cells[CHANGED] += number == other && number == 0;
    cells[LEFT]++;
}
