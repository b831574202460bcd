// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread sits in sigsuspend: the mask in force is the call's, its own comes back when the call ends. Signals
 * that only the one or the other blocks are pending. With the argument "arrives" SIGUSR2, which only the mask of the call blocks,
 * is sent to the process meanwhile: that does not end the call.
 */
#include "victim.h"

#define OWN_MASK (SIGBIT(SIGUSR1) | SIGBIT(SIGRTMIN + 1))
#define CALL_MASK (SIGBIT(SIGUSR2) | SIGBIT(SIGRTMIN + 1))

static int handled;
static int handled_other;
static uint64_t handler_mask;

static void handler(int sig)
{
	(void)sig;
	handled++;
	handler_mask = k_getmask();
}

static void other_handler(int sig)
{
	(void)sig;
	handled_other++;
}

static void thread(int index)
{
	uint64_t mask = CALL_MASK;
	siginfo_t info = info_value(SIGRTMIN + 1, index);
	long ret;

	k_setmask(OWN_MASK);
	k_queue_private(&info);
	victim_settle(SYS_rt_sigsuspend);
	ret = syscall(SYS_rt_sigsuspend, &mask, sizeof(mask));
	expect_int(-1, ret, "sigsuspend returns");
	expect_int(EINTR, errno, "its errno");
	expect_int(1, handled, "signals handled");
	expect_u64(CALL_MASK | SIGBIT(SIGUSR1), handler_mask, "mask in the handler");
	expect_u64(OWN_MASK, k_getmask(), "mask after sigsuspend");
	expect_int(SIGRTMIN + 1, k_take(ALL_SIGNALS, &info), "the pending signal");
	expect_int(index, info.si_int, "its value");
	expect_int(!strcmp(victim_arg(), "arrives"), handled_other, "signals that only the call blocked");
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = K_SA_RESTORER,
				   .restorer = victim_restorer(0) };
	pid_t tid;

	victim_begin(argc, argv);
	k_sigaction(SIGUSR1, &act, NULL);
	act.handler = (unsigned long)other_handler;
	k_sigaction(SIGUSR2, &act, NULL);
	k_setmask(SIGBIT(SIGUSR2));
	tid = victim_thread(thread, 3);
	victim_checkpoint();
	k_tgkill(tid, SIGUSR1);
	return victim_end();
}
