// SPDX-License-Identifier: GPL-2.0-or-later
/* A soft RLIMIT_SIGPENDING below the hard one, with room for what is queued. */
#include "victim.h"

#include <sys/resource.h>

int main(int argc, char **argv)
{
	struct rlimit lim;
	rlim_t soft;
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	getrlimit(RLIMIT_SIGPENDING, &lim);
	soft = lim.rlim_cur = lim.rlim_max - 10;
	if (setrlimit(RLIMIT_SIGPENDING, &lim))
		victim_die("setrlimit: %m");
	info = info_value(SIGRTMIN + 1, 5);
	k_queue_shared(&info);
	victim_checkpoint();
	getrlimit(RLIMIT_SIGPENDING, &lim);
	expect_u64(soft, lim.rlim_cur, "soft RLIMIT_SIGPENDING");
	victim_drain();
	return victim_end();
}
