// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Alternate signal stacks, one kind per thread: none, plain, one that disarms itself, and two that are in use,
 * plain and self-disarming, as their thread sits in a handler that runs on them. What sigaltstack(2) says is
 * compared by victim_pause(); here it is seen whether handlers then run where they should.
 */
#include "victim.h"

enum { NONE, PLAIN, AUTODISARM, ON_PLAIN, ON_AUTODISARM, KINDS };
static const char *const names[] = { "none", "plain", "autodisarm", "on plain", "on autodisarm" };

/* Sizes differ, so that no two can be mistaken for each other. */
static char stacks[KINDS + 1][64 * 1024] __attribute__((aligned(64)));

static size_t size_of(int kind)
{
	return sizeof(stacks[kind]) - 4096 * (size_t)kind;
}

static __thread int kind_here, runs, on_stack, sit;

static void handler(int sig, siginfo_t *info, void *context)
{
	char here;

	(void)sig;
	(void)info;
	(void)context;
	runs++;
	on_stack = &here >= stacks[kind_here] && &here < stacks[kind_here] + size_of(kind_here);
	if (sit) {
		sit = 0;
		victim_pause();
	}
}

static void set(int kind)
{
	stack_t ss = { .ss_sp = stacks[kind], .ss_size = size_of(kind) };

	kind_here = kind;
	if (kind == AUTODISARM || kind == ON_AUTODISARM)
		ss.ss_flags = (int)K_SS_AUTODISARM;
	if (kind != NONE && sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
}

static void check(int kind)
{
	stack_t ss;

	for (int i = 0; i < 2; i++) {
		runs = 0;
		k_tgkill(k_gettid(), SIGUSR1);
		expect_int(1, runs, "%s: handler runs", names[kind]);
		expect_int(kind != NONE, on_stack, "%s: handler is on the alternate stack", names[kind]);
	}
	/* After the handler's return a self-disarming stack is armed again. */
	sigaltstack(NULL, &ss);
	expect_int(kind == NONE ? SS_DISABLE : kind == AUTODISARM || kind == ON_AUTODISARM ? (int)K_SS_AUTODISARM : 0,
		   ss.ss_flags, "%s: flags after a handler", names[kind]);
	if (kind != NONE) {
		expect_u64((uintptr_t)stacks[kind], (uintptr_t)ss.ss_sp, "%s: sp after a handler", names[kind]);
		expect_u64(size_of(kind), ss.ss_size, "%s: size after a handler", names[kind]);
	}
}

static void thread(int kind)
{
	set(kind);
	if (kind == ON_PLAIN || kind == ON_AUTODISARM) {
		sit = 1;
		k_tgkill(k_gettid(), SIGUSR1);
	} else {
		victim_pause();
	}
	check(kind);
}

int main(int argc, char **argv)
{
	/* In a 32-bit task only the frame of SA_SIGINFO says what the stack was, so that its return can arm it again. */
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_ONSTACK | SA_SIGINFO | K_SA_RESTORER,
				   .restorer = victim_restorer(SA_SIGINFO) };

	victim_begin(argc, argv);
	k_sigaction(SIGUSR1, &act, NULL);
	for (int kind = 0; kind < KINDS; kind++)
		victim_thread(thread, kind);
	victim_checkpoint();
	return victim_end();
}
