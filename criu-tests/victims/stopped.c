// SPDX-License-Identifier: GPL-2.0-or-later
/* Stopped by SIGSTOP, with nothing pending that could be delivered. The SIGCONT comes from outside. */
#include "victim.h"

static int continued;

static void handler(int sig)
{
	(void)sig;
	continued++;
}

static void thread(int index)
{
	siginfo_t info = info_value(SIGRTMIN + 2, index);

	/* The leader's signal is the process's: no thread may have it unblocked. */
	k_setmask(SIGBIT(SIGRTMIN + 1) | SIGBIT(SIGRTMIN + 2));
	k_queue_private(&info);
	victim_pause();
	victim_drain();
}

static void stop(void)
{
	kill(getpid(), SIGSTOP);
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = K_SA_RESTORER,
				   .restorer = victim_restorer(0) };
	siginfo_t info;

	victim_begin(argc, argv);
	victim_thread(thread, 1);
	k_sigaction(SIGCONT, &act, NULL);
	k_setmask(SIGBIT(SIGRTMIN + 1));
	info = info_value(SIGRTMIN + 1, 7);
	k_queue_shared(&info);
	victim_when_ready = stop;

	victim_checkpoint();

	expect_int(1, continued, "SIGCONT handled");
	victim_drain();
	return victim_end();
}
