// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pending bits without an entry: what is left of a signal that was sent when RLIMIT_SIGPENDING was used up. They
 * are delivered as SI_USER from pid 0. An ordinary entry stands beside them in each queue.
 */
#include "victim.h"

#include <sys/resource.h>

static void limit(rlim_t soft)
{
	struct rlimit lim;

	getrlimit(RLIMIT_SIGPENDING, &lim);
	lim.rlim_cur = soft;
	if (setrlimit(RLIMIT_SIGPENDING, &lim))
		victim_die("setrlimit: %m");
}

static void expect_bare(int sig, const char *where)
{
	siginfo_t info;

	expect_int(sig, k_take(SIGBIT(sig), &info), "%s signal %d is pending", where, sig);
	expect_int(SI_USER, info.si_code, "%s signal %d, si_code", where, sig);
	expect_int(0, info.si_pid, "%s signal %d, si_pid", where, sig);
}

int main(int argc, char **argv)
{
	struct k_sigaction ignore = { .handler = (unsigned long)SIG_IGN };
	siginfo_t info;
	struct rlimit lim;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	/* Under the limit such a signal cannot be sent by tgkill, which might seem a harmless mark to somebody. */
	k_sigaction(K_NSIG, &ignore, NULL);
	info = info_value(SIGRTMIN, 1);
	k_queue_shared(&info);
	k_queue_private(&info);
	getrlimit(RLIMIT_SIGPENDING, &lim);
	limit(0);
	kill(getpid(), SIGRTMIN + 5);
	/* A real-time signal whose code is not SI_USER is refused, with EAGAIN. */
	info = info_pattern(SIGRTMIN + 6, SI_USER, 1, INFO_KEPT);
	k_queue_private(&info);
	k_tgkill(k_gettid(), SIGUSR1);
	limit(lim.rlim_cur);
	expect_u64(SIGBIT(SIGRTMIN) | SIGBIT(SIGRTMIN + 5), victim_shared_pending(), "shared bits at the start");

	victim_checkpoint();

	expect_bare(SIGRTMIN + 5, "shared");
	expect_bare(SIGRTMIN + 6, "private");
	expect_bare(SIGUSR1, "private");
	for (int i = 0; i < 2; i++) {
		expect_int(SIGRTMIN, k_take(SIGBIT(SIGRTMIN), &info), "the entry that had room");
		expect_int(1, info.si_int, "its value");
	}
	return victim_end();
}
