// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A SIGTRAP is pending for the process without an entry, and another one with an entry for the leader. The program is
 * another user's than root's, by its real uid, against which siginfos are counted.
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

int main(int argc, char **argv)
{
	siginfo_t info;
	struct rlimit lim;

	victim_begin(argc, argv);
	/* The effective one writes the files of the test. */
	if (setresuid(20009, -1, 20009))
		victim_die("another user: %m");
	k_setmask(ALL_SIGNALS);
	getrlimit(RLIMIT_SIGPENDING, &lim);
	limit(0);
	/* Others than SI_QUEUE and SI_TKILL override the limit. */
	info = info_value(SIGTRAP, 0);
	k_queue_shared(&info);
	limit(lim.rlim_cur);
	info = info_value(SIGTRAP, 1);
	k_queue_private(&info);
	info = info_value(SIGRTMIN, 2);
	k_queue_shared(&info);

	victim_checkpoint();

	expect_u64(SIGBIT(SIGTRAP) | SIGBIT(SIGRTMIN), victim_shared_pending(), "shared bits");
	expect_int(SIGTRAP, k_take(SIGBIT(SIGTRAP), &info), "the entry of the leader's");
	expect_int(1, info.si_int, "its value");
	expect_int(SIGTRAP, k_take(SIGBIT(SIGTRAP), &info), "the bit");
	expect_int(SI_USER, info.si_code, "its si_code");
	expect_int(0, info.si_pid, "its si_pid");
	expect_int(SIGRTMIN, k_take(SIGBIT(SIGRTMIN), &info), "another signal");
	expect_int(2, info.si_int, "its value");
	return victim_end();
}
