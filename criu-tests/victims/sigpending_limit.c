// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The soft RLIMIT_SIGPENDING was lowered after the queue had been filled beyond it.
 *
 * Argument "private": the thread's own queue. "timer": the entry of a timer is in the queue as well. "hard": the same, and the hard
 * limit is low too.
 */
#include "victim.h"

#include <sys/resource.h>

static void expire(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2 };
	struct itimerspec spec = { .it_value = { 0, 1000000 } };
	int id;

	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) || syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer: %m");
	while (!(victim_shared_pending() & SIGBIT(SIGRTMIN + 2)))
		k_sleep_ms(1);
}

int main(int argc, char **argv)
{
	struct k_sigaction ignore = { .handler = (unsigned long)SIG_IGN };
	struct rlimit lim;
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	/* Under the limit such a signal cannot be sent by tgkill, which might seem a harmless mark to somebody. */
	k_sigaction(K_NSIG, &ignore, NULL);
	for (int i = 0; i < 20; i++) {
		info = info_value(SIGRTMIN + 1, i);
		if (!strcmp(victim_arg(), "private"))
			k_queue_private(&info);
		else
			k_queue_shared(&info);
	}
	if (!strcmp(victim_arg(), "timer") || !strcmp(victim_arg(), "hard"))
		expire();
	getrlimit(RLIMIT_SIGPENDING, &lim);
	lim.rlim_cur = 5;
	if (!strcmp(victim_arg(), "hard"))
		lim.rlim_max = 30;
	if (setrlimit(RLIMIT_SIGPENDING, &lim))
		victim_die("setrlimit: %m");
	victim_checkpoint();
	getrlimit(RLIMIT_SIGPENDING, &lim);
	expect_int(5, (long)lim.rlim_cur, "soft RLIMIT_SIGPENDING");
	victim_drain();
	return victim_end();
}
