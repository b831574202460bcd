// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Syscall User Dispatch: the leader's calls are made only from its own code, those of a thread that computes from nowhere.
 * With the argument `bare` the leader's dispatch has no selector, so that nothing allows other calls.
 */
#include "victim.h"

#include <pthread.h>
#include <sys/prctl.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define ALLOW 0
#define BLOCK 1

extern char __executable_start, __etext;

static volatile char leaders = ALLOW, others = ALLOW;
static volatile sig_atomic_t dispatched;
static int over, spins;

static void on_sys(int sig)
{
	(void)sig;
	dispatched++;
	others = ALLOW;
}

static int is_over(void)
{
	return __atomic_load_n(&over, __ATOMIC_SEQ_CST);
}

/* No call until it is over; and then one, to see whether it is dispatched still. */
static void *compute(void *unused)
{
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &others))
		victim_die("PR_SET_SYSCALL_USER_DISPATCH: %m");
	others = BLOCK;
	__atomic_store_n(&spins, 1, __ATOMIC_SEQ_CST);
	while (!is_over())
		;
	if (others != BLOCK)
		dispatched = 100;
	others = ALLOW;
	expect_int(0, dispatched, "calls dispatched that the thread has not made");
	others = BLOCK;
	syscall(SYS_getppid);
	expect_int(1, dispatched, "calls dispatched of those that it has made");
	expect_int(ALLOW, others, "the selector behind the handler");
	return unused;
}

int main(int argc, char **argv)
{
	struct k_sigaction action = {.handler = (unsigned long)on_sys, .flags = K_SA_RESTORER};
	unsigned long start = (unsigned long)&__executable_start;
	int bare;
	pthread_t thread;

	victim_begin(argc, argv);
	bare = !strcmp(victim_arg(), "bare");
	action.restorer = victim_restorer(0);
	k_sigaction(SIGSYS, &action, NULL);
	if (pthread_create(&thread, NULL, compute, NULL))
		victim_die("pthread_create");
	while (!__atomic_load_n(&spins, __ATOMIC_SEQ_CST))
		k_sleep_ms(1);
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, start, (unsigned long)&__etext - start, bare ? NULL : &leaders))
		victim_die("PR_SET_SYSCALL_USER_DISPATCH: %m");
	leaders = BLOCK;
	victim_checkpoint();
	expect_int(BLOCK, leaders, "the leader's selector");
	__atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0);
	return victim_end();
}
