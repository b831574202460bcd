// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the demo dumps and restores: a bit of everything that a signal state has. Handlers and ignored signals; two
 * threads with an alternate stack each and masks of their own; legacy and real-time signals, with values, in the
 * private queues and in the shared one.
 */
#include "victim.h"

static char stacks[2][64 * 1024] __attribute__((aligned(64)));

static void handler(int sig)
{
	(void)sig;
}

static void fill(int index)
{
	stack_t ss = { .ss_sp = stacks[index],
		       .ss_size = sizeof(stacks[index]),
		       .ss_flags = index ? (int)K_SS_AUTODISARM : 0 };
	siginfo_t info;

	if (sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	k_setmask(SIGBIT(SIGUSR1) | SIGBIT(SIGHUP) | SIGBIT(40) | SIGBIT(41) | (index ? SIGBIT(SIGTERM) : 0));
	k_tgkill(k_gettid(), SIGUSR1);
	for (int i = 0; i < 3; i++) {
		info = info_value(40, index * 100 + i);
		k_queue_private(&info);
	}
}

static void thread(int index)
{
	fill(index);
	victim_pause();
	victim_drain();
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)handler,
				   .flags = SA_ONSTACK | SA_RESTART | K_SA_RESTORER,
				   .restorer = victim_restorer(0),
				   .mask = SIGBIT(SIGUSR2) };
	struct k_sigaction ignore = { .handler = (unsigned long)SIG_IGN };
	siginfo_t info;

	victim_begin(argc, argv);
	k_sigaction(SIGUSR1, &act, NULL);
	k_sigaction(SIGTERM, &act, NULL);
	k_sigaction(SIGPIPE, &ignore, NULL);
	fill(0);
	victim_thread(thread, 1);
	info = info_value(SIGHUP, 4711);
	k_queue_shared(&info);
	for (int i = 0; i < 3; i++) {
		info = info_value(41, 1000 + i);
		k_queue_shared(&info);
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
