// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads that wait in system calls with a value of their own in each register, and compare those that a call leaves as
 * they are when it has ended. What a tracer sees at the exit of a call is not always that: x7 of aarch64 is hidden there.
 */
#include "victim.h"

#include <poll.h>
#include <sys/epoll.h>

#if defined(__x86_64__)
/* rcx and r11 have what syscall leaves there. */
static const char *const names[] = { "rax", "rdi", "rsi", "rdx", "r10", "r8",  "r9",
				     "rbx", "rbp", "r12", "r13", "r14", "r15" };
enum { NUMBER = 0, RESULT = 0, FIRST = 1 };

__asm__("call_with:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	push %rdi\n"
	"	mov (%rdi), %rax\n"
	"	mov 16(%rdi), %rsi\n"
	"	mov 24(%rdi), %rdx\n"
	"	mov 32(%rdi), %r10\n"
	"	mov 40(%rdi), %r8\n"
	"	mov 48(%rdi), %r9\n"
	"	mov 56(%rdi), %rbx\n"
	"	mov 64(%rdi), %rbp\n"
	"	mov 72(%rdi), %r12\n"
	"	mov 80(%rdi), %r13\n"
	"	mov 88(%rdi), %r14\n"
	"	mov 96(%rdi), %r15\n"
	"	mov 8(%rdi), %rdi\n"
	"	syscall\n"
	"	pop %rcx\n"
	"	mov %rax, (%rcx)\n"
	"	mov %rdi, 8(%rcx)\n"
	"	mov %rsi, 16(%rcx)\n"
	"	mov %rdx, 24(%rcx)\n"
	"	mov %r10, 32(%rcx)\n"
	"	mov %r8, 40(%rcx)\n"
	"	mov %r9, 48(%rcx)\n"
	"	mov %rbx, 56(%rcx)\n"
	"	mov %rbp, 64(%rcx)\n"
	"	mov %r12, 72(%rcx)\n"
	"	mov %r13, 80(%rcx)\n"
	"	mov %r14, 88(%rcx)\n"
	"	mov %r15, 96(%rcx)\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n");
#elif defined(__aarch64__)
static const char *const names[] = { "x0",  "x1",  "x2",  "x3",  "x4",	"x5",  "x6",  "x7",  "x8",  "x9",  "x10",
				     "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21",
				     "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30" };
/* The number is restart_syscall's where the kernel has gone on with a call by that. */
enum { NUMBER = 8, RESULT = 0, FIRST = 0 };

__asm__("call_with:\n"
	"	stp x29, x30, [sp, #-112]!\n"
	"	stp x19, x20, [sp, #16]\n"
	"	stp x21, x22, [sp, #32]\n"
	"	stp x23, x24, [sp, #48]\n"
	"	stp x25, x26, [sp, #64]\n"
	"	stp x27, x28, [sp, #80]\n"
	"	str x0, [sp, #96]\n"
	"	ldp x2, x3, [x0, #16]\n"
	"	ldp x4, x5, [x0, #32]\n"
	"	ldp x6, x7, [x0, #48]\n"
	"	ldp x8, x9, [x0, #64]\n"
	"	ldp x10, x11, [x0, #80]\n"
	"	ldp x12, x13, [x0, #96]\n"
	"	ldp x14, x15, [x0, #112]\n"
	"	ldp x16, x17, [x0, #128]\n"
	"	ldp x18, x19, [x0, #144]\n"
	"	ldp x20, x21, [x0, #160]\n"
	"	ldp x22, x23, [x0, #176]\n"
	"	ldp x24, x25, [x0, #192]\n"
	"	ldp x26, x27, [x0, #208]\n"
	"	ldp x28, x29, [x0, #224]\n"
	"	ldr x30, [x0, #240]\n"
	"	ldp x0, x1, [x0]\n"
	"	svc #0\n"
	"	stp x0, x1, [sp, #-16]!\n"
	"	ldr x0, [sp, #112]\n"
	"	stp x2, x3, [x0, #16]\n"
	"	stp x4, x5, [x0, #32]\n"
	"	stp x6, x7, [x0, #48]\n"
	"	stp x8, x9, [x0, #64]\n"
	"	stp x10, x11, [x0, #80]\n"
	"	stp x12, x13, [x0, #96]\n"
	"	stp x14, x15, [x0, #112]\n"
	"	stp x16, x17, [x0, #128]\n"
	"	stp x18, x19, [x0, #144]\n"
	"	stp x20, x21, [x0, #160]\n"
	"	stp x22, x23, [x0, #176]\n"
	"	stp x24, x25, [x0, #192]\n"
	"	stp x26, x27, [x0, #208]\n"
	"	stp x28, x29, [x0, #224]\n"
	"	str x30, [x0, #240]\n"
	"	ldp x2, x3, [sp], #16\n"
	"	stp x2, x3, [x0]\n"
	"	ldp x19, x20, [sp, #16]\n"
	"	ldp x21, x22, [sp, #32]\n"
	"	ldp x23, x24, [sp, #48]\n"
	"	ldp x25, x26, [sp, #64]\n"
	"	ldp x27, x28, [sp, #80]\n"
	"	ldp x29, x30, [sp], #112\n"
	"	ret\n");
#else
/* In a 32-bit program nearly all of them are arguments. */
static const char *const names[] = { "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp" };
enum { NUMBER = 0, RESULT = 0, FIRST = 1 };

__asm__("call_with:\n"
	"	ud2\n");
#endif
#define REGISTERS ((int)(sizeof(names) / sizeof(*names)))
#define ARGS 6

/* Makes a system call with these registers, and puts there what they are when it has ended. */
void call_with(uint64_t registers[REGISTERS]);

enum { READ, EPOLL, SLEEP };

static int pair[2], epoll;

/* The result of a call. Other registers than that one and the number's are as they were. */
static long keeps(const char *what, long number, const uint64_t args[ARGS])
{
	uint64_t before[REGISTERS], after[REGISTERS];

	for (int i = 0; i < REGISTERS; i++)
		before[i] = 0x5a5a000011110000ull + (uint64_t)i * 0x0101000000000101ull;
	memcpy(&before[FIRST], args, ARGS * sizeof(*args));
	before[NUMBER] = (uint64_t)number;
	memcpy(after, before, sizeof(after));
	call_with(after);
	for (int i = 0; i < REGISTERS; i++)
		if (i != RESULT && i != NUMBER)
			expect_u64(before[i], after[i], "%s in %s", names[i], what);
	return (long)after[RESULT];
}

static void sleeps(const char *what)
{
	struct timespec time = { .tv_nsec = 20 * 1000 * 1000 }, left;

	const uint64_t args[ARGS] = { CLOCK_MONOTONIC, 0, (uintptr_t)&time, (uintptr_t)&left, 4, 5 };

	expect_int(0, keeps(what, SYS_clock_nanosleep, args), "result of %s", what);
}

static void polls(const char *what)
{
	struct timespec time = { .tv_nsec = 20 * 1000 * 1000 };
	struct pollfd none = { .fd = -1 };

	const uint64_t args[ARGS] = { (uintptr_t)&none, 1, (uintptr_t)&time, 0, 8, 5 };

	expect_int(0, keeps(what, SYS_ppoll, args), "result of %s", what);
}

static void thread(int kind)
{
	struct epoll_event event;
	char byte;
	const uint64_t to_read[ARGS] = { (uint64_t)pair[0], (uintptr_t)&byte, 1, 3, 4, 5 };
	const uint64_t to_epoll[ARGS] = { (uint64_t)epoll, (uintptr_t)&event, 1, (uint64_t)-1, 0, 8 };
	long got;

	switch (kind) {
	case READ:
		victim_settle(SYS_read);
		expect_int(1, keeps("read", SYS_read, to_read), "result of read");
		break;
	case EPOLL:
		victim_settle(SYS_epoll_pwait);
		/* The tracer by which this program looks at itself ends it as well. */
		do {
			got = keeps("epoll_pwait", SYS_epoll_pwait, to_epoll);
		} while (got == -EINTR);
		expect_int(1, got, "result of epoll_pwait");
		break;
	default:
		victim_settle(-1);
		while (!victim_released())
			sleeps("clock_nanosleep");
	}
}

/* The leader does not come to rest: it is dumped by other code of CRIU's than the threads are. */
static void until_go(void)
{
	char path[PATH_MAX];

	victim_path(path, "go");
	while (access(path, F_OK)) {
		sleeps("clock_nanosleep of the leader");
		polls("ppoll of the leader");
	}
}

int main(int argc, char **argv)
{
	struct epoll_event wanted = { .events = EPOLLIN };
	int bell[2];

	victim_begin(argc, argv);
	epoll = epoll_create1(0);
	if (epoll < 0 || pipe(pair) || pipe(bell) || epoll_ctl(epoll, EPOLL_CTL_ADD, bell[0], &wanted))
		victim_die("epoll_create1, pipe: %m");
	victim_thread(thread, READ);
	victim_thread(thread, EPOLL);
	victim_thread(thread, SLEEP);
	victim_when_ready = until_go;
	victim_checkpoint();
	expect_int(1, write(pair[1], "", 1), "write for read");
	expect_int(1, write(bell[1], "", 1), "write for epoll_pwait");
	return victim_end();
}
